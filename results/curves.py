"""Learning curves of loops, and how many samples a run needs for what another reached: its sample efficiency.

A curve is known at the rounds alone; between two of them it is taken as straight. A run without rounds is known at its
end alone, so it is asked for nothing but what it reached. Gives up: an error of the ratio, which takes several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from harness.record import RunRecord
from results.tables import Arm, column_names
from results.text import count

Curve = Sequence[tuple[int, float]]
"""Samples and score, from no samples on."""


def learning_curve(record: RunRecord, column: str) -> Curve:
    """The base's score at 0 samples and that after every round; empty where one of them was not measured."""
    base = next((c.score for c in record.base_columns if c.column == column), None)
    points = [(0, base), *((r.samples, r.scores.get(column)) for r in record.rounds)]
    known = [(samples, score) for samples, score in points if score is not None]
    return known if record.rounds and len(known) == len(points) else []


def samples_for(curve: Curve, level: float) -> float | None:
    """Samples at which a curve first has `level`, a higher score being better; None where it never has."""
    if curve and curve[0][1] >= level:
        return float(curve[0][0])
    for (before, low), (after, high) in pairwise(curve):
        if high >= level:
            return before + (after - before) * (level - low) / (high - low)
    return None


def efficiency_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """By accuracy column, the samples that each arm needs for what the first gained, and the first's number over it.

    Columns in which the first did not gain are left out; a cell is empty where a run has no curve, or stayed below.
    Empty without a complete first arm or without rounds.
    """
    first = arms[0].record
    if first is None or not any(arm.record and arm.record.rounds for arm in arms):
        return []
    own = first.data_metrics.get("samples")
    rows = [["", *[arm.label for arm in arms]]]
    for name in column_names(arms):
        reached, base = arms[0].column(name), arms[0].base(name)
        if reached is None or reached.score is None or not reached.higher_is_better or not isinstance(own, int):
            continue
        if base is None or base.score is None or base.score >= reached.score:
            continue
        cells = [count(own)]
        for arm in arms[1:]:
            needed = samples_for(learning_curve(arm.record, name), reached.score) if arm.record else None
            cells.append("" if needed is None else f"{needed:.0f}" + (f" ({own / needed:.2f} x)" if needed else ""))
        rows.append([name, *cells])
    return rows if len(rows) > 1 else []
