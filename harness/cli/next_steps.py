"""Suggestions after a run: two or three commands that answer the question a finished run leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote

from harness.choice import NONE
from harness.lab.arms import read_arms
from harness.record import RunRecord
from methods.signals.catalogue import signal_classes


def next_steps(record: RunRecord, folder: Path) -> str:
    """Commands that make sense now, each with what it answers.

    They start from the run's settings file, which has everything that was given.
    """
    here = quote(str(folder))
    again = f"harness run {here}/config.yaml"
    steps = []
    partner = find_partner(record, folder)
    if partner is not None:
        line = f"harness compare {quote(str(partner))} {here}"
        steps.append((line, "side by side with a run of another kind on the same seed"))
    elif record.signal != NONE:
        steps.append((f"{again} --driver static", "the same without feedback"))
    else:
        why = "the same with feedback; 'harness drivers' and 'harness signals' list what there is"
        steps.append((f"{again} --driver DRIVER --signal SIGNAL", why))
    if record.lab_world is not None and record.signal not in (NONE, *_lab_only()):
        steps.append((f"{again} --signal {read_arms('ceiling')}", "how far a perfect signal gets"))
    else:
        steps.append((f"{again} --seed {record.synth_seed + 1}", "a second draw, since one run is no result"))
    steps.append((f"harness export {here} --to my-dataset", "the data set, its card and the model, to take away"))
    lines = ["What to try next"]
    for command, why in steps:
        lines += [f"  {command}", f"      {why}"]
    return "\n".join(lines)


def _lab_only() -> list[str]:
    """The signals that read the lab's truth themselves."""
    return [signal.name for signal in signal_classes()[0] if signal.lab_only]


def find_partner(record: RunRecord, folder: Path) -> Path | None:
    """A finished run beside this one that differs in driver or signal only, `static` before others."""
    found: list[tuple[bool, str, Path]] = []
    for path in folder.parent.glob("*/record.json"):
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        same = all(
            other.get(key) == getattr(record, key)
            for key in ("target", "suite", "scale", "lab_world", "synth_seed", "match", "budget")
        )
        if same and (other.get("driver"), other.get("signal")) != (record.driver, record.signal):
            found.append((other.get("driver") != "static", path.parent.name, path.parent))
    return min(found)[2] if found else None
