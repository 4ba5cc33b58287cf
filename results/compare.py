"""`harness compare`: the base target and several runs side by side.

Runs stand under letters, because their names are too long for columns. What they share is said once and what differs
gets a row, so that an unequal comparison is seen before its numbers are read. Gives up: no test between methods; that
takes several runs of each, and `results.statistics` has it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from harness.errors import InputError
from results.curves import efficiency_rows
from results.differences import NOT_COMPARED, equal_settings, recorded_rows, setting_rows
from results.runs import Run, last_event, load_run, read_items
from results.tables import SCORES_TITLE, Arm, column_names, cost_rows, count_rows, mark_notes, score_rows
from results.text import blocks, wrapped

EFFICIENCY = "Samples for the first run's accuracy, between rounds by a straight line (x: the first run's over them)"

NOT_REPLICATES = (
    "Each run is a single draw of generation and training. The errors are over test items and leave out\n"
    "what varies from run to run: they can say which of these models is better on this test, not which\n"
    "method is. That takes several seeds of each."
)


def render_compare(paths: Sequence[Path]) -> str:
    """Counts, cost and accuracies of the runs in `paths`, with differences to base and to the first run.

    Raises `InputError` where none of them is complete, or a path is not a run.
    """
    runs = [load_run(path) for path in paths]
    if all(run.record is None for run in runs):
        raise InputError(f"none of {', '.join(r.name for r in runs)} is complete; finish one with 'harness resume'")
    # Differences are taken to the first complete run.
    runs.sort(key=lambda run: run.record is None)
    arms = [Arm(_letter(i), run.record, read_items(run.folder)) for i, run in enumerate(runs)]
    lines = [f"{arm.label}  {run.name}" for arm, run in zip(arms, runs, strict=True)]
    lines += ["", *_settings(runs, arms)]
    sections = (
        (SCORES_TITLE, score_rows(arms), 2),
        (EFFICIENCY, efficiency_rows(arms), 1),
        ("Rows in, kept, rejected by reason", count_rows(arms), 2),
        ("Tokens and seconds by role", cost_rows(arms), 2),
    )
    for title, rows, left in sections:
        for block in blocks(rows, left) if rows else ():
            lines += ["", title, *block]
    return "\n".join([*lines, "", *_notes(runs, arms)])


def _letter(index: int) -> str:
    letters = string.ascii_uppercase
    return letters[index] if index < len(letters) else _letter(index // 26 - 1) + letters[index % 26]


def _settings(runs: Sequence[Run], arms: Sequence[Arm]) -> list[str]:
    """The settings that the runs share, those in which they differ, and what was not looked at."""
    shared, rows = recorded_rows([arm.record for arm in arms])
    rows += setting_rows(runs)
    several = len(runs) > 1
    equal, known = equal_settings(runs)
    if several and known:
        shared.append(f"and {'all' if equal == known else f'{equal} of the'} {known} settings")
    lines = _wrapped("Same in all: " if several else "Settings: ", shared)
    if rows:
        for block in blocks([["", *[arm.label for arm in arms]], *rows]):
            lines += ["", "What differs", *block]
    unknown = [arm.label for run, arm in zip(runs, arms, strict=True) if not run.manifest.get("settings")]
    if unknown and several:
        lines.append(f"The settings of {', '.join(unknown)} are not known: its run.json does not hold them.")
    return [*lines, NOT_COMPARED] if several else lines


def _wrapped(title: str, words: Sequence[str]) -> list[str]:
    import textwrap

    # Words of one setting stay together.
    text = title + ", ".join(word.replace(" ", "\0") for word in words)
    return [line.replace("\0", " ") for line in textwrap.wrap(text, 100, subsequent_indent="  ")]


def _notes(runs: Sequence[Run], arms: Sequence[Arm]) -> list[str]:
    lines = []
    for run, arm in zip(runs, arms, strict=True):
        if arm.record is None:
            doing = last_event(run.folder)
            lines.append(f"{arm.label} is not complete ({run.status}{f', last event: {doing}' if doing else ''}).")
        else:
            lines += [f"{arm.label}: {flag}" for flag in arm.record.validity_flags]
            lines += [line for o in arm.record.upstream for line in wrapped(f"{arm.label}: {o.line()}")]
    lines += mark_notes([arm.record for arm in arms if arm.record]) + _unpaired(arms)
    return [*lines, *NOT_REPLICATES.splitlines()]


def _unpaired(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for name in column_names(arms):
        sets = {frozenset(a) for arm in arms if (a := arm.items.answers.get(("tuned", name))) is not None}
        if len(sets) > 1:
            lines.append(f"{name}: the runs were tested on different items, so no difference is given.")
        bases = {b.score for arm in arms if (b := arm.base(name)) is not None}
        if len(bases) > 1:
            lines.append(f"{name}: the runs start from different bases; 'minus base' takes each run's own.")
    return lines
