"""What to try after a run: two or three commands that answer the question a finished run leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote

from harness.record import RunRecord


def next_steps(record: RunRecord, folder: Path) -> str:
    """Commands that make sense now, each with what it answers; and a reminder where the scores mean nothing."""
    base = f"--target {record.target}" + (f" --scale {record.scale}" if record.scale else "")
    base += f" --seed {record.synth_seed}"
    base += f" --runs {quote(str(folder.parent))}" if folder.parent != Path("runs") else ""
    here = quote(str(folder))
    steps = []
    partner = find_partner(record, folder)
    if partner is not None:
        line = f"harness compare {quote(str(partner))} {here}"
        steps.append((line, "side by side with a run of another kind on the same seed"))
    elif record.lab_world is None:
        # Suite, documents and guide are the run's own: its settings file has them all.
        driver = "--driver static" if record.driver != "static" else "--driver grpo_rubric --signal influence"
        how = "without" if record.driver != "static" else "with"
        steps.append((f"harness run {here}/config.yaml {driver}", f"the same {how} feedback"))
    elif record.driver != "static":
        steps.append((f"harness run --method static {base}", "the same without feedback"))
    else:
        steps.append((f"harness run --method optimsyn {base}", "the same with feedback"))
    if record.lab_world is not None and record.signal not in ("oracle", "anti_oracle") and record.driver != "static":
        line = f"harness run --method {record.method} --driver {record.driver} --signal oracle {base}"
        steps.append((line, "how far a perfect signal gets"))
    else:
        line = f"harness run {here}/config.yaml --seed {record.synth_seed + 1}"
        steps.append((line, "a second draw, since one run is no result"))
    steps.append((f"harness export {here} --to my-dataset", "the data set, its card and the model, to take away"))
    lines = ["What to try next"]
    for command, why in steps:
        lines += [f"  {command}", f"      {why}"]
    return "\n".join(lines)


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
