"""Preferences between drafts: which are made of scores, and what every prompt without one lacks."""

from __future__ import annotations

import pytest

from methods.drivers.preferences import CLOSE, ONE_SIDE, UNSCORED, Rated, prefer, split_of


def drafts(*values: float | None) -> list[Rated]:
    return [Rated(f"d{i}", f"text {i}", value) for i, value in enumerate(values)]


def pairs(found: object) -> list[tuple[str, str]]:
    return [(row.chosen_id, row.rejected_id) for row in found.rows]  # type: ignore[attr-defined]


GROUPS = {
    "both": drafts(0.3, -0.1, None, 0.2, -0.4),
    "positive": drafts(0.3, 0.2),
    "zero is on no side": drafts(0.0, -0.1),
    "unmeasured": drafts(0.3, None, None),
    "near": drafts(0.02, -0.02),
}


def test_all_above_the_split_are_preferred_to_all_below_it() -> None:
    found = prefer(GROUPS, "sides", 0.0, 0.0)
    own = [row for row in found.rows if row.seed_id == "both"]
    assert [(r.chosen_id, r.rejected_id) for r in own] == [("d0", "d1"), ("d0", "d4"), ("d3", "d1"), ("d3", "d4")]
    assert (own[1].chosen, own[1].rejected, own[1].chosen_score, own[1].rejected_score) == (
        "text 0",
        "text 4",
        0.3,
        -0.4,
    )
    assert len(found.rows) == 5 and found.without == {ONE_SIDE: 2, UNSCORED: 1}
    assert (found.prompts, found.with_pairs) == (5, 2)


def test_a_margin_takes_the_near_ones_out_and_is_never_met_by_equality() -> None:
    found = prefer(GROUPS, "sides", 0.0, 0.35)
    assert pairs(found) == [("d0", "d1"), ("d0", "d4"), ("d3", "d4")]
    assert found.without == {ONE_SIDE: 2, UNSCORED: 1, CLOSE: 1}
    assert pairs(prefer({"a": drafts(0.25, -0.25)}, "sides", 0.0, 0.5)) == []


def test_the_best_and_the_worst_read_no_split() -> None:
    found = prefer({**GROUPS, "equal": drafts(0.5, 0.5)}, "best_worst", None, 0.0)
    assert pairs(found) == [("d0", "d4"), ("d0", "d1"), ("d0", "d1"), ("d0", "d1")]
    assert found.without == {UNSCORED: 1, CLOSE: 1}


@pytest.mark.parametrize(
    "bounds, split", [((None, None), 0.0), ((-1.0, 1.0), 0.0), ((0.0, 1.0), 0.25), ((0.0, None), 0.25)]
)
def test_the_split_is_zero_where_values_have_both_signs_and_else_their_mean(
    bounds: tuple[float | None, float | None], split: float
) -> None:
    assert split_of([0.0, 0.0, 0.0, 1.0], None, bounds) == split
    assert split_of([0.0, 0.0, 0.0, 1.0], "mean", bounds) == 0.25
    assert split_of([0.0, 1.0], 0.7, bounds) == 0.7
