"""Run folders as the screens read them: finding one by name, its manifest, record and item-level results.

A folder may be of a run that is under way, was killed, or is complete; whatever is not there yet is None, and only a
file that is there and malformed is an error. Gives up: nothing is cached, a screen reads what is on disk now.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.events import read_events
from harness.lock import is_held
from harness.record import RunRecord, read_record

MANIFEST = "run.json"
MODEL = "model"
STORE = ".stages"
LOCK = ".lock"
RECORD = "record.json"
ITEMS = "items.parquet"
BASE = "base"
TUNED = "tuned"

Answers = Mapping[str, float]
"""Correctness (0 or 1) by item id."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder: its manifest, and its record where the run is complete."""

    folder: Path
    manifest: Mapping[str, Any]
    record: RunRecord | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def status(self) -> str:
        """The status that the manifest states, except that a run nobody is writing any more does not run."""
        stated = str(self.manifest.get("status", "unknown"))
        return "killed" if stated == "running" and not is_held(self.folder / LOCK) else stated


@dataclass(frozen=True, slots=True)
class Items:
    """Item-level results of one run: answers by (model, column), and the clusters that items belong to by column."""

    answers: Mapping[tuple[str, str], Answers]
    clusters: Mapping[str, Mapping[str, str]]


def run_folders(runs_dir: Path) -> list[Path]:
    """Folders of `runs_dir` that hold a manifest, by name."""
    if not runs_dir.is_dir():
        return []
    return sorted(p for p in runs_dir.iterdir() if not p.name.startswith(".") and (p / MANIFEST).is_file())


def find_run(runs_dir: Path, name: str) -> Path:
    """The run that `name` means: a run folder's path, a name in `runs_dir`, or the beginning of just one name.

    Raises `InputError` with the nearest existing run where there is none, and the candidates where there are several.
    """
    as_path = Path(name)
    if name and (as_path / MANIFEST).is_file():
        return as_path
    names = [folder.name for folder in run_folders(runs_dir)]
    wanted = as_path.name if as_path.parent == runs_dir else name.rstrip("/")
    if wanted in names:
        return runs_dir / wanted
    fitting = [n for n in names if wanted and n.startswith(wanted)]
    if len(fitting) == 1:
        return runs_dir / fitting[0]
    if fitting:
        shown = ", ".join(fitting[:4]) + (", ..." if len(fitting) > 4 else "")
        raise InputError(f"'{name}' begins the names of {len(fitting)} runs in {runs_dir}: {shown}; type more of it")
    if not names:
        raise InputError(f"no run '{name}': {runs_dir} holds no runs; start one with 'harness run'")
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)[0]
    raise InputError(f"no run '{name}' in {runs_dir}; did you mean '{near}'? 'harness ls' lists them")


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises `InputError` where it is not one, or its manifest is not readable JSON."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} is not a run: {MANIFEST} cannot be read ({error.strerror})") from None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is not a JSON object; restore it, or start the run anew from its config.yaml")
    record = read_record(folder / RECORD) if (folder / RECORD).is_file() else None
    return Run(folder, manifest, record)


def missing_output(run: Run, name: str) -> str:
    """The reason why an output of a finished run is not there, and the remedy: where a link leads to, if it is one."""
    path = run.folder / name
    again = f"compute it again with: harness resume {run.folder}"
    if path.is_symlink():
        where = os.path.normpath(run.folder / path.readlink())
        return (
            f"{name} of run {run.name} is not here: it lies in {where}, which is missing; bring the stage store along "
            f"(a run is moved together with the folder {STORE} beside it), or {again}"
        )
    return f"{name} of run {run.name} is missing from {run.folder}; put it back, or {again}"


_KINDS_BEFORE = {"sources": "seeds", "warmup": "checkpoints", "grpo": "policy", "finetune": "model"}
"""What stages left in runs of versions that did not say it in their manifest."""


def stages_of(run: Run, kind: str) -> list[str]:
    """The store's folders of the stages of a run that leave an output of this kind, in their order."""
    stages = run.manifest.get("stages", {})
    kinds = run.manifest.get("kinds", _KINDS_BEFORE)
    return [str(folder) for name, folder in stages.items() if kinds.get(name) == kind]


def stage_of(run: Run, kind: str) -> str | None:
    """As `stages_of`, the last one; None where there is none."""
    return next(reversed(stages_of(run, kind)), None)


def output(run: Run, name: str) -> Path | None:
    """The place of an output of a run; None where that is nowhere.

    The model is in the run's folder, where its link leads, or in the stage store beside the run.
    """
    if name != MODEL:
        return run.folder / name if (run.folder / name).exists() else None
    candidates = [run.folder / MODEL]
    stage = stage_of(run, MODEL)
    if stage:
        # A run's folder may itself be a link; its name then still lies beside the store.
        candidates += [parent / STORE / stage / MODEL for parent in (run.folder.parent, run.folder.resolve().parent)]
    return next((folder for folder in candidates if folder.is_dir() and any(folder.iterdir())), None)


def student_items(model: str, role: str) -> str:
    """What the rows of another student are called in `items.parquet`: before (`BASE`) or after (`TUNED`)."""
    return f"{model} {role}"


def read_items(folder: Path) -> Items:
    """Item-level results of a run (`items.parquet`); empty where there are none.

    Rows have `task`, `item_id`, `correct`, optionally `cluster` ("" where items are independent), and optionally
    `model`, which is `base` or `tuned`, with a role where it is another student's (`student_items`); without it all
    rows are of the fine-tuned target.
    """
    path = folder / ITEMS
    if not path.is_file():
        return Items({}, {})
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}); 'harness resume' writes it again") from None
    answers: dict[tuple[str, str], dict[str, float]] = {}
    clusters: dict[str, dict[str, str]] = {}
    for row in rows:
        value = row.get("value", row["correct"])
        if value is None:
            continue
        key, correct = (row.get("model") or TUNED, row["task"]), float(value)
        if not math.isfinite(correct):
            where = f"item {row['item_id']} of {row['task']}"
            raise InputError(f"{path} has {correct} for {where}; 'harness resume' writes it again")
        answers.setdefault(key, {})[row["item_id"]] = correct
        # An item without a cluster is a cluster of its own.
        clusters.setdefault(row["task"], {})[row["item_id"]] = row.get("cluster") or f"item {row['item_id']}"
    return Items(answers, clusters)


def last_event(folder: Path) -> str:
    """The last thing that an incomplete run did, for people; empty where it has done nothing."""
    path = folder / "events.jsonl"
    last = ""
    if path.is_file():
        for event in read_events(path):
            stage = event.get("stage")
            last = f"{event.get('event', '?')}" + (f" {stage}" if stage else "")
    return last
