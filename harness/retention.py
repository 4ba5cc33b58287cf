"""What a fine-tuning kept and what it lost: items that were right before, and benchmarks that did not guide the run.

A mean that stands still may hide as many items lost as gained, and a gain in the guided benchmarks a loss elsewhere
(forgetting). Both follow from the items and scores that a run has anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.record import ColumnScore, Forgetting, Retention


@dataclass(slots=True)
class _Pair:
    """An item's verdicts, before and after."""

    before: float | None = None
    after: float | None = None


def retention(base: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]) -> list[Retention]:
    """By benchmark, in the order of `base`: of the items that the base has right, those that the tuned model has right.

    Rows have `task`, `item_id`, `correct` and perhaps `value`, as evaluation leaves them. A benchmark whose items have
    anything else than the verdicts 0 and 1, such as losses, is left out, and so is an item without a verdict on one
    side.
    """
    found: dict[str, dict[str, _Pair]] = {}
    for rows, side in ((base, "before"), (tuned, "after")):
        for row in rows:
            pair = found.setdefault(row["task"], {}).setdefault(row["item_id"], _Pair())
            setattr(pair, side, row.get("value", row["correct"]))
    kept = []
    for column, items in found.items():
        pairs = [(p.before, p.after) for p in items.values() if p.before is not None and p.after is not None]
        if pairs and all(verdict in (0, 1) for pair in pairs for verdict in pair):
            right = sum(before == 1 for before, _ in pairs)
            still = sum(before == after == 1 for before, after in pairs)
            kept.append(Retention(column, len(pairs), right, still, sum(after > before for before, after in pairs)))
    return kept


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
