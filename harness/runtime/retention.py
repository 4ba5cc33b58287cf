"""The retention of a fine-tuning: items that were right before, and benchmarks that did not guide the run.

A mean that stands still may hide as many items lost as gained, and a gain in the guided benchmarks a loss elsewhere
(forgetting). Both follow from the items and scores that a run has anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.record import ColumnScore, Forgetting, Retention


def retention(base: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]) -> list[Retention]:
    """By benchmark, in the order of `base`: of the items that the base has right, those that the tuned model has right.

    Rows have `task`, `item_id`, `correct` and perhaps `value`, as evaluation leaves them. A benchmark whose items have
    anything else than the verdicts 0 and 1, such as losses, is left out, and so is an item without a verdict on one
    side.
    """
    kept = []
    after = _verdicts(tuned)
    for column, items in _verdicts(base).items():
        other = after.get(column, {})
        pairs = [(verdict, other[item]) for item, verdict in items.items() if item in other]
        if pairs and all(verdict in (0, 1) for pair in pairs for verdict in pair):
            right = sum(before == 1 for before, _ in pairs)
            still = sum(before == now == 1 for before, now in pairs)
            newly = sum(now > before for before, now in pairs)
            kept.append(Retention(column, n=len(pairs), right_before=right, still_right=still, newly_right=newly))
    return kept


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By benchmark and item, leaving out items without a verdict."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if (value := row.get("value", row["correct"])) is not None:
            found.setdefault(row["task"], {})[row["item_id"]] = value
    return found


def forgetting(base: Sequence[ColumnScore], tuned: Sequence[ColumnScore]) -> Forgetting | None:
    """The change of the benchmarks that did not guide the run: its mean and its worst; None where there is none.

    Accuracies alone, since a loss has another unit. `acc_after(d) - acc_base(d)` for every benchmark d.
    """
    before = {c.column: c for c in base}
    changes = {}
    for column in tuned:
        old = before.get(column.column)
        if column.guided or not column.higher_is_better or old is None or old.score is None or column.score is None:
            continue
        changes[column.column] = column.score - old.score
    if not changes:
        return None
    worst = min(changes, key=lambda name: changes[name])
    return Forgetting(len(changes), sum(changes.values()) / len(changes), changes[worst], worst)
