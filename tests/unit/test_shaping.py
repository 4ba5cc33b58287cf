"""Reward shaping: scale over valid scored samples, invalid ones apart, None stays None."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.drivers import shaping
from methods.drivers.shaping import TAGS, RewardConfig, format_term, without_spread

VALUES = [0.1, 0.3, None, 0.2, 0.7, None]
VALID = [True, True, True, True, True, False]
GROUP = [0, 0, 0, 1, 1, 1]


def shape(*given: Any) -> list[float | None]:
    """The rewards of drafts whose form is not looked at."""
    return shaping.shape(*given, [""] * len(given[0]))


def test_a_batch_is_scaled_over_its_valid_scored_samples() -> None:
    got = shape(VALUES, VALID, GROUP, RewardConfig())
    assert got == [pytest.approx(0.0), pytest.approx(1 / 3), None, pytest.approx(1 / 6), pytest.approx(1.0), -0.1]


def test_a_group_is_scaled_on_its_own() -> None:
    got = shape(VALUES, VALID, GROUP, RewardConfig(scope="group"))
    assert got == [0.0, pytest.approx(1.0), None, 0.0, pytest.approx(1.0), -0.1]


def test_without_a_scope_scores_pass_unchanged() -> None:
    assert shape(VALUES, VALID, GROUP, RewardConfig(scope="none")) == [0.1, 0.3, None, 0.2, 0.7, -0.1]


def test_an_invalid_samples_score_never_sets_the_range() -> None:
    """The published code scores placeholders of failed samples and lets them stretch the scale."""
    assert shape([0.2, 0.4, -9.0], [True, True, False], [0, 0, 0], RewardConfig()) == [0.0, 1.0, -0.1]


def test_what_an_invalid_sample_gets() -> None:
    assert shape([None, 1.0], [False, True], [0, 0], RewardConfig(invalid="zero")) == [0.0, 0.0]
    assert shape([None, 1.0], [False, True], [0, 0], RewardConfig(penalty=0.5)) == [-0.5, 0.0]


@pytest.mark.parametrize("scope", ["batch", "group"])
def test_ties_give_no_advantage(scope: Any) -> None:
    assert shape([0.4] * 4, [True] * 4, [0, 0, 1, 1], RewardConfig(scope=scope)) == [0.0] * 4


def test_nothing_measured_is_nothing_rewarded() -> None:
    assert shape([None, None], [True, True], [0, 0], RewardConfig()) == [None, None]
    assert shape([None, None], [False, False], [0, 0], RewardConfig()) == [-0.1, -0.1]
    assert shape([], [], [], RewardConfig()) == []


_scores = st.lists(st.tuples(st.none() | st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=12)


@given(_scores, st.sampled_from(["batch", "group", "none"]), st.sampled_from(["penalty", "zero"]))
def test_order_range_and_none_hold_for_any_scores(rows: Any, scope: Any, invalid: Any) -> None:
    values, valid = [v for v, _ in rows], [ok for _, ok in rows]
    group = [i // 3 for i in range(len(rows))]
    rewards = shape(values, valid, group, RewardConfig(scope=scope, invalid=invalid))
    for i, (value, ok, reward) in enumerate(zip(values, valid, rewards, strict=True)):
        assert (reward is None) == (ok and value is None)
        if not ok:
            assert reward == (-0.1 if invalid == "penalty" else 0.0)
        elif scope != "none" and reward is not None:
            assert 0.0 <= reward <= 1.0
        for j in range(i):
            same = scope != "group" or group[i] == group[j]
            if ok and valid[j] and same and value is not None and values[j] is not None and value > values[j]:
                assert reward is not None and rewards[j] is not None and reward >= rewards[j]


def test_scores_are_cut_before_they_are_scaled() -> None:
    plain = RewardConfig(scope="none", clip=(0.2, 0.5))
    assert shape(VALUES, VALID, GROUP, plain) == [0.2, 0.3, None, 0.2, 0.5, -0.1]
    assert shape([-5.0, 1.0, 9.0], [True] * 3, [0] * 3, RewardConfig(clip=(0.0, 2.0))) == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="a lower and a higher"):
        RewardConfig(clip=(1.0, 1.0))


def test_the_format_term_is_added_to_valid_scored_samples_alone() -> None:
    draft = "\n".join((TAGS[0], "Why?", TAGS[1], TAGS[2], "x" * 50, TAGS[3], TAGS[4], "So.", TAGS[5]))
    config = RewardConfig(scope="none", format_term="tags")
    values, valid = [0.5, None, 0.5, 0.5], [True, True, False, True]
    got = shaping.shape(values, valid, [0] * 4, config, [draft, draft, draft, draft + "\nmore"])
    assert got == [1.25, None, -0.1, pytest.approx(1.25 - 0.004)]
    assert format_term(draft.replace(TAGS[2], ""), "tags") == 0.0 and format_term(draft, "none") == 0.0


def test_the_released_format_term_charges_the_reasoning() -> None:
    """Six tags on lines of their own give 0.75; 800 characters of reasoning make it negative (measured upstream)."""
    short, long = (
        "\n".join((TAGS[0], "Q?", TAGS[1], TAGS[2], "r" * size, TAGS[3], TAGS[4], "A", TAGS[5])) for size in (50, 800)
    )
    after = len(short.partition(TAGS[1])[2].strip())
    assert format_term(short, "upstream") == pytest.approx(0.75 - 0.001 * after)
    assert format_term(long, "upstream") == pytest.approx(format_term(short, "upstream") - 0.75)
    assert format_term(short.replace("\n", " "), "upstream") < 0


def test_groups_that_teach_nothing_are_counted() -> None:
    assert without_spread([0.1, 0.1, 0.2, 0.3, None, 0.4, None, None], [0, 0, 1, 1, 2, 2, 3, 3]) == 3
