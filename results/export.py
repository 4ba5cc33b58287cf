"""`harness export`: what a user takes away from a run, in a folder of its own.

The copy is made under a temporary name and renamed, so a folder that exists is whole. Source documents, caches and
checkpoints stay behind.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.errors import InputError, StageError
from results.runs import RECORD, load_run
from results.text import count

DATASET = "dataset.jsonl"
MODEL = "model"
CARD = "README.md"
OUTPUTS = (DATASET, CARD, MODEL, RECORD)


def export_run(run_folder: Path, dest: Path) -> str:
    """Copy data set, data card, model and record to `dest`; returns what the folder holds, for people.

    Raises `InputError` for an incomplete run or a `dest` that is not an empty folder, `StageError` where it cannot be
    written.
    """
    run = load_run(run_folder)
    if run.record is None or not (run_folder / DATASET).is_file():
        raise InputError(f"{run.name} is not complete ({run.status}); finish it with: harness resume {run_folder}")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f"{dest} exists and is not an empty folder; name another one")
    temporary = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    present = [name for name in OUTPUTS if (run_folder / name).exists()]
    try:
        temporary.mkdir(parents=True)
        for name in present:
            source = run_folder / name
            if source.is_dir():
                shutil.copytree(source, temporary / name)
            else:
                shutil.copyfile(source, temporary / name)
        # A rename onto an empty folder replaces it, and fails if someone filled it meanwhile.
        os.replace(temporary, dest)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StageError(f"cannot write {dest}: {error.strerror or error}; free space or name another folder") from None
    width = max(len(name) for name in present)
    return "\n".join([str(dest), *[f"  {name:<{width}}  {describe(dest / name)}" for name in present]])


def describe(path: Path) -> str:
    """What an output is, with its size."""
    if path.name == DATASET:
        with open(path, "rb") as handle:
            pairs = sum(1 for line in handle if line.strip())
        return f"{count(pairs)} conversations, one JSON object with 'messages' a line"
    if path.name == MODEL:
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        return f"the fine-tuned target for from_pretrained, {size / 1e6:.1f} MB"
    if path.name == RECORD:
        return "the run in numbers"
    return "the data card"
