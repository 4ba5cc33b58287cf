"""What a fine-tuning kept: items that stay right, and the change of columns that guided nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.record import ColumnScore, Forgetting, Retention, read_record
from harness.runtime.retention import forgetting, retention
from results.views import render_show
from support.made_runs import make_run


def answers(task: str, verdicts: str) -> list[dict[str, object]]:
    """One row an item: 1 right, 0 wrong, - no verdict."""
    return [
        {"task": task, "item_id": str(i), "correct": None if v == "-" else float(v)} for i, v in enumerate(verdicts)
    ]


def column(name: str, score: float | None, *, metric: str = "accuracy", guided: bool = False) -> ColumnScore:
    return ColumnScore(name, metric, 10, score, 0.1, guided=guided)


def test_every_item_counts_once_on_both_sides() -> None:
    base = answers("law", "1110010") + answers("history", "00")
    tuned = answers("history", "01") + answers("law", "1011011")
    assert retention(base, tuned) == [Retention("law", 7, 4, 3, 2), Retention("history", 2, 0, 0, 1)]
    assert retention(base, tuned)[0].share == 0.75 and retention(base, tuned)[1].share is None


def test_items_without_two_verdicts_are_left_out() -> None:
    (kept,) = retention(answers("law", "11-1"), answers("law", "1-10"))
    assert kept == Retention("law", 2, 2, 1, 0)


def test_losses_and_partial_credit_are_no_verdicts() -> None:
    rows = answers("law", "10")
    assert retention(rows, [{**row, "value": 0.5} for row in rows]) == []


def test_the_change_is_of_columns_that_guided_nothing() -> None:
    base = [column("law", 0.5), column("history", 0.4), column("exam", 0.3), column("loss", 2.0, metric="loss")]
    tuned = [column("law", 0.55), column("history", 0.2), column("exam", 0.9, guided=True), column("new", 0.5)]
    found = forgetting(base, [*tuned, column("loss", 1.0, metric="loss")])
    assert found is not None and (found.columns, found.worst_column) == (2, "history")
    assert found.mean == pytest.approx(-0.075) and found.worst == pytest.approx(-0.2)
    assert forgetting(base, [column("exam", 0.9, guided=True)]) is None
    assert forgetting(base, [column("law", None)]) is None


def test_it_is_in_the_record_and_on_the_screen(tmp_path: Path) -> None:
    tuned, base = {"law": [1, 0, 1, 1], "history": [0, 1]}, {"law": [1, 1, 1, 0], "history": [1, 1]}
    folder = make_run(tmp_path, "run", tuned, base)
    old = read_record(folder / "record.json")
    assert old.retention == [] and old.forgetting is None and "newly right" not in render_show(folder)
    kept = [Retention("law", 4, 3, 2, 1), Retention("history", 2, 2, 1, 0)]
    replace(old, retention=kept, forgetting=Forgetting(2, -0.25, -0.5, "history")).write(folder / "record.json")
    again = read_record(folder / "record.json")
    assert again.retention == kept and again.forgetting == Forgetting(2, -0.25, -0.5, "history")
    shown = render_show(folder)
    assert "3 of 4" in shown and "2 (67%)" in shown
    assert "Over the 2 columns that guided nothing: mean change -25.0 points, worst -50.0 (history)" in shown
