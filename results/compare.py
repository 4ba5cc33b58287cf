"""`harness compare`: the base target and several runs side by side.

Runs stand under letters, because their names are too long for columns. What they share is said once and what differs
gets a row, so that an unequal comparison is seen before its numbers are read. Gives up: no test between methods; that
takes several runs of each, and `results.statistics` has it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import InputError
from harness.record import RunRecord
from results.runs import Run, last_event, load_items, load_run
from results.tables import GUIDED_NOTE, Arm, accuracy_rows, column_names, cost_rows, count_rows
from results.text import blocks

NOT_REPLICATES = (
    "Each run is a single draw of generation and training. The errors are over test items and leave out\n"
    "what varies from run to run: they can say which of these models is better on this test, not which\n"
    "method is. That takes several seeds of each."
)

_FIELDS: dict[str, Callable[[RunRecord], object]] = {
    "method": lambda r: r.method,
    "driver": lambda r: r.driver,
    "signal": lambda r: r.signal,
    "target": lambda r: r.target,
    "suite": lambda r: r.suite,
    "scale": lambda r: r.scale,
    "lab world": lambda r: r.lab_world,
    "data seed": lambda r: r.synth_seed,
    "tuning seed": lambda r: r.sft_seed,
    "budget": lambda r: f"{r.budget:g} {r.match}",
    "reads validation": lambda r: "yes" if r.reads_validation else "no",
}


def render_compare(paths: Sequence[Path]) -> str:
    """Counts, cost and accuracies of the runs in `paths`, with differences to base and to the first run.

    Raises `InputError` where none of them is complete, or a path is not a run.
    """
    runs = [load_run(path) for path in paths]
    if all(run.record is None for run in runs):
        raise InputError(f"none of {', '.join(r.name for r in runs)} is complete; finish one with 'harness resume'")
    # Differences are taken to the first complete run.
    runs.sort(key=lambda run: run.record is None)
    arms = [Arm(_letter(i), run.record, load_items(run.folder)) for i, run in enumerate(runs)]
    lines = [f"{arm.label}  {run.name}" for arm, run in zip(arms, runs, strict=True)]
    lines += ["", *_settings(arms)]
    sections = (
        ("Accuracy of the target, percent ± standard error over items", accuracy_rows(arms), 2),
        ("Rows in, kept, rejected by reason", count_rows(arms), 2),
        ("Tokens and seconds by role", cost_rows(arms), 2),
    )
    for title, rows, left in sections:
        for block in blocks(rows, left):
            lines += ["", title, *block]
    return "\n".join([*lines, "", *_notes(runs, arms)])


def _letter(index: int) -> str:
    letters = string.ascii_uppercase
    return letters[index] if index < len(letters) else _letter(index // 26 - 1) + letters[index % 26]


def _settings(arms: Sequence[Arm]) -> list[str]:
    known = [(arm.label, arm.record) for arm in arms if arm.record]
    shared, rows = [], [["", *[arm.label for arm in arms]]]
    for name, read in _FIELDS.items():
        values = [str(read(record)) for _, record in known]
        if len(set(values)) > 1:
            by_label = {label: value for (label, _), value in zip(known, values, strict=True)}
            rows.append([name, *[by_label.get(arm.label, "") for arm in arms]])
        elif values[0] != "None":
            shared.append(f"{name} {values[0]}")
    lines = _wrapped("Same in all: ", shared) if len(known) > 1 else _wrapped("Settings: ", shared)
    if len(rows) > 1:
        for block in blocks(rows):
            lines += ["", "What differs", *block]
    return lines


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
    lines += _guided(arms) + _unpaired(arms)
    return [*lines, *NOT_REPLICATES.splitlines()]


def _guided(arms: Sequence[Arm]) -> list[str]:
    if not any(score.guided for arm in arms if arm.record for score in arm.record.columns):
        return []
    return [GUIDED_NOTE]


def _unpaired(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for name in column_names(arms):
        sets = {frozenset(a) for arm in arms if (a := arm.items.answers.get(("tuned", name))) is not None}
        if len(sets) > 1:
            lines.append(f"{name}: the runs were tested on different items, so no difference is given.")
        bases = {b.accuracy for arm in arms if (b := arm.base(name)) is not None}
        if len(bases) > 1:
            lines.append(f"{name}: the runs start from different bases; 'minus base' takes each run's own.")
    return lines
