"""Learning curves of loops, and the samples that one needs for what another run reached."""

from __future__ import annotations

from typing import Any

import pytest

from harness.record import RoundResult, read_record
from results.compare import render_compare
from results.curves import learning_curve, samples_for
from results.views import render_show
from support.made_runs import make_run

CURVE = [(0, 0.2), (10, 0.2), (20, 0.6), (30, 0.5), (40, 0.9)]


@pytest.mark.parametrize(
    "level, needed", [(0.1, 0), (0.2, 0), (0.4, 15), (0.6, 20), (0.75, 36.25), (0.9, 40), (0.95, None)]
)
def test_the_first_place_at_which_a_curve_has_a_level(level: float, needed: float | None) -> None:
    found = samples_for(CURVE, level)
    assert found is None if needed is None else found == pytest.approx(needed)
    assert samples_for([], level) is None


def rounds(*scores: float | None, column: str) -> list[RoundResult]:
    return [
        RoundResult(number=n, seeds=4, samples=4 * n, scores={column: score}, seconds=1.0, tokens={"target": 100 * n})
        for n, score in enumerate(scores, 1)
    ]


def test_screens_show_the_curve_and_what_it_saves(tmp_path: Any) -> None:
    column = "quiz"
    base, tuned = {column: [0] * 10}, {column: [1] * 6 + [0] * 4}
    first = make_run(tmp_path, "one-shot", tuned, base, data_metrics={"samples": 12})
    loop = make_run(tmp_path, "loop", tuned, base, rounds=rounds(0.3, 0.9, 0.6, column=column))
    record = read_record(loop / "record.json")
    assert learning_curve(record, column) == [(0, 0.0), (4, 0.3), (8, 0.9), (12, 0.6)]
    assert learning_curve(read_record(first / "record.json"), column) == []
    shown = render_show(loop)
    assert [line.split() for line in shown.splitlines() if line.startswith("2 ")] == [
        ["2", "4", "8", "90.0", "1.0", "200"]
    ]
    assert "Round by round" not in render_show(first)
    compared = render_compare([first, loop])
    assert ["quiz", "12", "6", "(2.00", "x)"] in [line.split() for line in compared.splitlines()]
    assert "Samples for the first" not in render_compare([first, first])


def test_a_round_that_was_not_measured_leaves_no_curve(tmp_path: Any) -> None:
    column = "quiz"
    answers = {column: [1, 0]}
    loop = make_run(tmp_path, "loop", answers, answers, rounds=rounds(0.3, None, column=column))
    assert learning_curve(read_record(loop / "record.json"), column) == []
