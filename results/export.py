"""`harness export`: what a user takes away from a run, in a folder of its own.

The copy is made under a temporary name and renamed, so a folder that exists is whole. Source documents, caches and
checkpoints stay behind.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.errors import InputError, StageError
from harness.shards import write_advice
from results.runs import MODEL, RECORD, Run, load_run, missing_output, output
from results.text import count

DATASET = "dataset.jsonl"
CARD = "README.md"
OUTPUTS = (DATASET, CARD, MODEL, RECORD)


def export_run(run_folder: Path, dest: Path) -> str:
    """Copy data set, data card, model and record to `dest`; returns what the folder holds, for people.

    Raises `InputError` for an incomplete run, one whose model or another output is not here, and a `dest` that is not
    an empty folder; `StageError` where it cannot be written.
    """
    run = load_run(run_folder)
    if run.record is None or not (run_folder / DATASET).is_file():
        raise InputError(f"{run.name} is not complete ({run.status}); finish it with: harness resume {run_folder}")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f"{dest} exists and is not an empty folder; name another one")
    temporary = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    sources = {name: _source(run, name) for name in OUTPUTS}
    try:
        temporary.mkdir(parents=True)
        for name, source in sources.items():
            if source.is_dir():
                shutil.copytree(source, temporary / name)
            else:
                shutil.copyfile(source, temporary / name)
        # A rename onto an empty folder replaces it, and fails if someone filled it meanwhile.
        os.replace(temporary, dest)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StageError(f"cannot write {dest}: {_reason(error)}; {write_advice(error)}") from None
    width = max(len(name) for name in OUTPUTS)
    return "\n".join([str(dest), *[f"  {name:<{width}}  {describe_output(dest / name)}" for name in OUTPUTS]])


def _source(run: Run, name: str) -> Path:
    """The place of an output of a finished run. Raises `InputError` where that is nowhere."""
    found = output(run, name)
    if found is None:
        raise InputError(missing_output(run, name))
    return found


def _reason(error: OSError) -> str:
    """The error of what was refused; copying a folder collects its errors, of which the first is said."""
    first = error.args[0][0][-1] if isinstance(error, shutil.Error) else error.strerror
    return " ".join(str(first or error).split())


def describe_output(path: Path) -> str:
    """The description of an output, with its size."""
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
