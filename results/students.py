"""The table of all models that a run has fine-tuned on its data set: the target, and other students of it.

The signal's scores were taken of the target. What the others gain shows whether data made for one model help another
(the cross-model matrix of AcquisitionSynthesis, arXiv 2605.13149; a run is one row of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.record import ColumnScore, RunRecord, StudentResult
from harness.screen import aligned
from results.contamination import formatted
from results.runs import BASE, TUNED, Items, student_items
from results.statistics import paired_items
from results.tables import Arm, column_cell, score_cell
from results.text import wrapped


@dataclass(frozen=True, slots=True)
class _Model:
    """One model: its name on the screen, its scores after and before, and what its items are called."""

    name: str
    columns: Sequence[ColumnScore]
    base: Sequence[ColumnScore]
    items: tuple[str, str]


def render_students(arm: Arm) -> list[str]:
    """Scores of every model and what it gained, a row a benchmark; nothing where the target is the only one."""
    record = arm.record
    if record is None or not record.students:
        return []
    models = [_Model("target", record.columns, record.base_columns, (TUNED, BASE)), *map(_student, record.students)]
    rows = [["column", "", *(model.name for model in models)]]
    for column in record.columns:
        found = [(_of(m.columns, column.column), _of(m.base, column.column), m) for m in models]
        scores = [score_cell(tuned, column.guided) for tuned, _, _ in found]
        rows.append([column_cell(column, column.column), "tuned", *scores])
        rows.append(["", "minus base", *(_gain(tuned, base, arm.items, m) for tuned, base, m in found)])
    lines = [
        "",
        "All models fine-tuned on this data set; the signal's scores are of the target",
        *aligned(rows, left=2),
    ]
    lines += wrapped(_means(record, models))
    return lines + [line for s in record.students for line in wrapped(f"{_short(s)}: {s.model}, in {s.stage}")]


def _student(student: StudentResult) -> _Model:
    items = student_items(TUNED, student.role), student_items(BASE, student.role)
    return _Model(_short(student), student.columns, student.base_columns, items)


def _short(student: StudentResult) -> str:
    return student.role.partition(":")[2]


def _of(columns: Sequence[ColumnScore], name: str) -> ColumnScore | None:
    return next((c for c in columns if c.column == name), None)


def _gain(tuned: ColumnScore | None, base: ColumnScore | None, items: Items, model: _Model) -> str:
    """Tuned minus base with its paired standard error; empty where a side was not measured."""
    if tuned is None or base is None or tuned.score is None or base.score is None:
        return ""
    a, b = (items.answers.get((name, tuned.column)) for name in model.items)
    if a is None or b is None or a.keys() != b.keys():
        return formatted(tuned)(tuned.score - base.score, signed=True) if tuned.n == base.n else ""
    mean, error = paired_items(a, b, items.clusters.get(tuned.column))
    return formatted(tuned)(mean, error, signed=True)


def _means(record: RunRecord, models: Sequence[_Model]) -> str:
    """Every model's mean gain in accuracy over the benchmarks that guided nothing and were measured for all."""
    gains: list[list[float]] = [[] for _ in models]
    for column in (c for c in record.columns if not c.guided and c.higher_is_better):
        pairs = [(_of(m.columns, column.column), _of(m.base, column.column)) for m in models]
        own = [t.score - b.score for t, b in pairs if t and b and t.score is not None and b.score is not None]
        if len(own) == len(models):
            for gain, value in zip(gains, own, strict=True):
                gain.append(value)
    if not gains[0]:
        return ""
    said = [f"{m.name} {100 * sum(g) / len(g):+.1f}" for m, g in zip(models, gains, strict=True)]
    return f"Mean gain over the {len(gains[0])} columns that guided nothing, in points: {', '.join(said)}"
