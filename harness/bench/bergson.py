"""bergson (EleutherAI) as a contestant of the influence benchmark, from a Python that has it.

Its torch is pinned below ours, so it runs in an environment of its own: the model, its adapter and the token ids go
into a temporary folder, `bergson_script.py` scores them there, and seconds and scores come back. So it cannot take
turns with the others; it gets the machine to itself, before them, and an error costs none of their work.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config_runtime import ScoringConfig
from harness.errors import PrerequisiteError, StageError
from harness.training.chat import Encoded

SCRIPT = Path(__file__).with_name("bergson_script.py")
VERSION = "from importlib.metadata import version; print(version('bergson'))"
PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16"}
"""The names that bergson gives them."""


@dataclass(frozen=True, slots=True)
class Bergson:
    """An environment with bergson: its Python, and bergson's version there."""

    python: str
    version: str


@dataclass(frozen=True, slots=True)
class BergsonScores:
    """Seconds of each pass over the samples, their scores, and the torch and device type behind them."""

    seconds: tuple[float, ...]
    scores: tuple[float, ...]
    torch: str
    device: str


def find_bergson(python: str) -> Bergson:
    """bergson's version in the environment of `python`. Raises `PrerequisiteError` where either is not there."""
    done = _run(python, ["-c", VERSION], "cpu")
    version = done.stdout.strip()
    if done.returncode or not version:
        raise PrerequisiteError(
            f"--bergson {python}: no bergson there ({_reason(done)}); install it with '{python} -m pip install bergson'"
        )
    return Bergson(python, version)


def bergson_scores(
    bergson: Bergson,
    model: Any,
    samples: Sequence[Encoded],
    validation: Sequence[Encoded],
    scoring: ScoringConfig,
    *,
    batch_size: int,
    turns: int,
) -> BergsonScores:
    """Mean cosine of each sample's gradient with the validation items' by bergson, `turns` times after a warm-up.

    `model` is a PEFT model with LoRA, left as it is. Threads, type, device and bounds of a batch are ours. Raises
    `StageError` with the last line of the script's errors where it fails, `PrerequisiteError` where it lacks our GPU.
    """
    device = model.device.type
    task = {
        "samples": [_plain(item) for item in samples],
        "validation": [_plain(item) for item in validation],
        "precision": PRECISION[model.dtype],
        "batch_tokens": scoring.batch_tokens,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "turns": turns,
    }
    with tempfile.TemporaryDirectory(prefix="bench-bergson-") as name:
        folder = Path(name)
        _save(model, folder)
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        done = _run(bergson.python, [str(SCRIPT), str(folder)], device)
        if done.returncode:
            raise StageError(f"--bergson {bergson.python}: bergson {bergson.version} failed there: {_reason(done)}")
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if found["device"] != device:
        raise PrerequisiteError(
            f"--bergson {bergson.python}: it ran on {found['device']} and the benchmark on {device}, which does not "
            "compare; install a torch there that sees the GPU"
        )
    return BergsonScores(tuple(found["seconds"]), tuple(found["scores"]), found["torch"], found["device"])


def _plain(item: Encoded) -> dict[str, Any]:
    return {"ids": list(item.ids), "prompt": item.prompt_length}


def _save(model: Any, folder: Path) -> None:
    """`base/` and `adapter/`, the adapter naming the base by its path."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # the benchmark shows its own
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "adapter")
    config.save_pretrained(folder / "adapter")
    copy.deepcopy(model).unload().save_pretrained(folder / "base")


def _run(python: str, arguments: Sequence[str], device: str) -> subprocess.CompletedProcess[str]:
    """`python` with neither our paths nor the script's folder among its own, where files have bergson's name."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    try:
        return subprocess.run(
            [python, "-I", *arguments], capture_output=True, encoding="utf-8", errors="replace", env=environment
        )
    except OSError as error:
        raise PrerequisiteError(
            f"--bergson {python}: cannot be started ({error.strerror}); give the Python of an environment with bergson"
        ) from None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The reason of its failure, in one line: the last one of its errors."""
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"no message, exit status {done.returncode}"
