"""The tables that `show` and `compare` print, as rows of strings: scores, counts by stage, cost by role.

An empty cell was not measured. Accuracies are in percent, losses in nats a token, with one standard error over items;
a difference is taken item by item, so that items which are hard for both sides cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.record import ColumnScore, RunRecord
from results.contamination import any_unclean, clean_cell, formatted
from results.runs import BASE, TUNED, Items
from results.statistics import paired_items
from results.text import count

GUIDED_MARK = "*"
SCORES_TITLE = "Scores of the target ± standard error over items; accuracies in percent"
LOWER_MARK = "↓"
LOWER_NOTE = f"{LOWER_MARK} loss of the reference answer, in nats a token, mean over items: lower is better."
GUIDED_NOTE = f"{GUIDED_MARK} guided: items of this benchmark steered the run, so its score is no independent test."


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a comparison: its letter, its record (None while incomplete) and its items."""

    label: str
    record: RunRecord | None
    items: Items

    def column(self, name: str) -> ColumnScore | None:
        """The fine-tuned target's score in a column."""
        return next((c for c in self.record.columns if c.column == name), None) if self.record else None

    def base(self, name: str) -> ColumnScore | None:
        """The base target's score in a column."""
        return next((c for c in self.record.base_columns if c.column == name), None) if self.record else None


def column_names(arms: Sequence[Arm]) -> list[str]:
    """All columns of all arms, in the order in which they first appear."""
    names: dict[str, None] = {}
    for arm in arms:
        for column in [*arm.record.columns, *arm.record.base_columns] if arm.record else []:
            names.setdefault(column.column)
    return list(names)


def score_cell(score: ColumnScore | None, guided: bool = False) -> str:
    """`71.1 ± 4.8`, marked where the column is guided; empty where it was not measured."""
    text = formatted(score)(score.score, score.stderr) if score else ""
    return text + GUIDED_MARK if text and guided else text


def difference_cell(arm: Arm, other: Arm, other_model: str, name: str) -> str:
    """Arm's tuned target minus `other_model` of `other` in a column, with the paired standard error if there is one.

    Empty where a side was not measured, or was measured on other items.
    """
    mine, theirs = arm.column(name), (other.base(name) if other_model == BASE else other.column(name))
    if mine is None or theirs is None or mine.score is None or theirs.score is None:
        return ""
    a, b = arm.items.answers.get((TUNED, name)), other.items.answers.get((other_model, name))
    if a is None or b is None:
        # Means are known and items are not: the difference stands without an error, if it is of as many items.
        return formatted(mine)(mine.score - theirs.score, signed=True) if mine.n == theirs.n else ""
    if a.keys() != b.keys():
        return ""
    mean, error = paired_items(a, b, arm.items.clusters.get(name))
    return formatted(mine)(mean, error, signed=True)


def column_cell(score: ColumnScore | None, name: str) -> str:
    """A column's name, marked where a lower score is better."""
    return name if score is None or score.higher_is_better else f"{name} {LOWER_MARK}"


def score_rows(arms: Sequence[Arm], base_title: str = "base") -> list[list[str]]:
    """Columns as rows; base and arms as columns; under each the differences to base and to the first arm."""
    first = arms[0]
    rows = [["column", "items", base_title, *[arm.label for arm in arms]]]
    for name in column_names(arms):
        scores = [arm.column(name) for arm in arms]
        bases = [arm.base(name) for arm in arms]
        shown = next((s for s in [*scores, *bases] if s is not None), None)
        same_base = len({(b.score, b.n) for b in bases if b is not None}) <= 1
        base = next((b for b in bases if b is not None), None) if same_base else None
        cells = [score_cell(s, s is not None and s.guided) for s in scores]
        rows.append([column_cell(shown, name), str(shown.n) if shown and shown.n else "", score_cell(base), *cells])
        if any_unclean([arm.record for arm in arms if arm.record]):
            rows.append(["  clean items", "", "", *[clean_cell(s) for s in scores]])
        rows.append(["  minus base", "", "", *[difference_cell(arm, arm, BASE, name) for arm in arms]])
        if len(arms) > 1:
            others = [difference_cell(arm, first, TUNED, name) for arm in arms[1:]]
            rows.append([f"  minus {first.label}", "", "", "", *others])
    return [row for row in rows if not row[0].startswith("  ") or any(row[1:])]


def count_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Rows in, kept and rejected by reason of every stage that has rows, by arm."""
    stages: dict[str, None] = {}
    for arm in arms:
        for stage_count in arm.record.counts if arm.record else []:
            if stage_count.rows_in or stage_count.kept:
                stages.setdefault(stage_count.stage)
    rows = [["stage", "", *[arm.label for arm in arms]]]
    for stage in stages:
        found = [next((c for c in arm.record.counts if c.stage == stage), None) if arm.record else None for arm in arms]
        rows.append([stage, "in", *[count(c.rows_in) if c else "" for c in found]])
        rows.append(["", "kept", *[count(c.kept) if c else "" for c in found]])
        reasons = sorted({reason for c in found if c for reason in c.rejected})
        for reason in reasons:
            rows.append(["", f"- {reason}", *[count(c.rejected.get(reason, 0)) if c else "" for c in found]])
    return rows


def mark_notes(records: Sequence[RunRecord]) -> list[str]:
    """The meanings of the marks in tables of scores, for those that occur."""
    columns = [column for record in records for column in record.columns]
    lower = any(not column.higher_is_better for column in columns)
    return [*([LOWER_NOTE] if lower else []), *([GUIDED_NOTE] if any(c.guided for c in columns) else [])]


def cost_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Tokens (prompt + completion) and seconds of every role, and the wall seconds of all stages, by arm."""
    roles: dict[str, None] = {}
    for arm in arms:
        for cost in arm.record.cost if arm.record else []:
            roles.setdefault(cost.role)
    rows = [["role", "", *[arm.label for arm in arms]]]
    for role in roles:
        mine = [[c for c in arm.record.cost if c.role == role] if arm.record else [] for arm in arms]
        lines: Mapping[str, Callable[[Sequence[float]], str]] = {
            "tokens in + out": lambda v: f"{count(v[0])} + {count(v[1])}",
            "seconds": lambda v: f"{v[2]:,.1f}",
        }
        sums = [
            (sum(c.prompt_tokens for c in cs), sum(c.completion_tokens for c in cs), sum(c.seconds for c in cs))
            if cs
            else None
            for cs in mine
        ]
        for i, (title, cell) in enumerate(lines.items()):
            rows.append([role if i == 0 else "", title, *[cell(s) if s else "" for s in sums]])
    totals = [sum(c.seconds for c in arm.record.counts) if arm.record else None for arm in arms]
    rows.append(["all stages", "seconds", *[f"{t:,.1f}" if t is not None else "" for t in totals]])
    return rows
