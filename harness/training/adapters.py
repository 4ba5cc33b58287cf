"""A user's own LoRA checkpoints in place of a warm-up: found and described from their files, without loading torch.

A checkpoint is a folder as a Hugging Face trainer writes it: the adapter, and its optimizer's state. Several of them
are summed over by the mean learning rate of the steps that led to each (LESS §2.1), as the trainer logged it.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.texts import read_text
from harness.training.adam_files import find_moments
from harness.training.trainer import checkpoints_in
from harness.types import file_hash, stable_hash

UNKNOWN_RATES = "equal: no trainer_state.json tells the learning rates of all"

_SHAPE = (
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "target_parameters"),
    *("layers_to_transform", "layers_pattern", "use_dora", "fan_in_fan_out"),
)
"""Fields of an adapter's configuration that decide what its weights are multiplied by, and where they stand."""

FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class GivenCheckpoint:
    """One checkpoint: its folder, its optimizer's file, LoRA's shape, and its weight (those of a run sum to 1).

    `step` counts the optimizer steps behind it, where its trainer says so. `weighted_by` says where the weights are
    from.
    """

    folder: Path
    moments: Path
    rank: int
    alpha: float
    modules: tuple[str, ...]
    step: int | None
    weight: float
    weighted_by: str

    @property
    def identity(self) -> str:
        """Hash of the adapter's and the optimizer's files."""
        return stable_hash([file_hash(path) for path in (*(self.folder / name for name in FILES), self.moments)])


def given_checkpoints(folders: Sequence[str]) -> tuple[GivenCheckpoint, ...]:
    """The checkpoints in `folders`, in the order of training; a trainer's output folder stands for all in it.

    Where not all of their learning rates are known they count the same. Raises `InputError` for a folder without a LoRA
    adapter, for adapters that scale differently, and for an optimizer's state that is not there or sharded.
    """
    found = [path for folder in folders for path in _expand(Path(folder).expanduser())]
    if len(set(found)) < len(found):
        raise InputError(f"warmup.adapter names {next(p for p in found if found.count(p) > 1)} twice")
    described = [(_config(path), _trainer_state(path), path) for path in found]
    if all(state for _, state, _ in described):
        described.sort(key=lambda entry: int(entry[1]["global_step"]))
    _require_one_adapter([(config, path) for config, _, path in described])
    rates = _interval_rates([state for _, state, _ in described])
    by = "one checkpoint" if len(found) == 1 else "mean learning rates" if rates else UNKNOWN_RATES
    weights = rates or [1.0] * len(found)
    return tuple(
        GivenCheckpoint(
            folder=path,
            moments=find_moments(path),
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            modules=_modules(config),
            step=int(state["global_step"]) if state else None,
            weight=weight / sum(weights),
            weighted_by=by,
        )
        for (config, state, path), weight in zip(described, weights, strict=True)
    )


def load_adapter(base: Any, folder: Path, target: str) -> Any:
    """`base` under the adapter at `folder`, trainable. Raises `InputError` where it does not fit the model `target`."""
    from peft import PeftModel, load_peft_weights

    try:
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
        stored = len(load_peft_weights(str(folder), device="cpu"))
    except Exception as error:  # PEFT, torch and safetensors each raise their own kinds for one cause
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the adapter at {folder} does not fit the target {target}: {reason[-1].strip()[:160]}"
        ) from None
    trained = sum(p.requires_grad for p in model.parameters())
    if trained != stored:
        raise InputError(
            f"the adapter at {folder} holds {stored} tensors and would train {trained} on the target {target}; it "
            "belongs to another model"
        )
    return model


def _expand(folder: Path) -> list[Path]:
    """The folder itself where it holds an adapter, else the checkpoints in it."""
    if not folder.is_dir():
        raise InputError(f"warmup.adapter: there is no folder {folder}")
    if (folder / FILES[0]).is_file():
        return [folder]
    inside = [path for path in checkpoints_in(folder) if (path / FILES[0]).is_file()]
    if not inside:
        others = sorted(path.parent.name for path in folder.glob(f"*/{FILES[0]}"))
        there = f"; it has {', '.join(others[:4])}: name such a folder itself" if others else ""
        raise InputError(
            f"warmup.adapter: {folder} holds no LoRA adapter ({FILES[0]}), and no checkpoint-N with one{there}"
        )
    return inside


def _config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / FILES[0])
    if config.get("peft_type") != "LORA":
        raise InputError(f"{folder / FILES[0]} is of type {config.get('peft_type')}; signals need a LoRA adapter")
    if not (folder / FILES[1]).is_file():
        raise InputError(f"{folder} has no {FILES[1]}; save the adapter as safetensors")
    numbers = config.get("r"), config.get("lora_alpha")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise InputError(f"{folder / FILES[0]} gives no rank and alpha (r, lora_alpha) as numbers")
    return config


def _require_one_adapter(described: Sequence[tuple[dict[str, Any], Path]]) -> None:
    """Raise `InputError` where checkpoints differ in shape or scaling: one model computes with all of them."""
    first, where = described[0]
    for config, path in described[1:]:
        for field in _SHAPE:
            one, other = _plain(first.get(field)), _plain(config.get(field))
            if one != other:
                raise InputError(
                    f"warmup.adapter: {where} and {path} are not of one training: {field} is {one} in one and {other} "
                    "in the other; name checkpoints that agree, or one of them"
                )


def _plain(value: Any) -> Any:
    """A field's value, with lists in order and what is off or empty as None."""
    return sorted(value) if isinstance(value, list) else value or None


def _modules(config: dict[str, Any]) -> tuple[str, ...]:
    named = config.get("target_modules") or ()
    return (named,) if isinstance(named, str) else tuple(sorted(named))


def _trainer_state(folder: Path) -> dict[str, Any]:
    """The trainer's state in the checkpoint; empty where it says nothing, or not which step it is."""
    path = folder / "trainer_state.json"
    state = _read_json(path) if path.is_file() else {}
    return state if isinstance(state.get("global_step"), int) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"cannot read {path}: it is no JSON object")
    return value


def _interval_rates(states: Sequence[dict[str, Any]]) -> list[float]:
    """Mean learning rate of the steps up to each checkpoint since the one before; empty where not all are known.

    Steps between two that were logged are taken to lie on the line between them, as schedules do but for their corners.
    """
    if len(states) < 2 or not all(states):
        return []
    logged: dict[int, float] = {}
    for state in states:
        logged |= _logged_rates(state)
    known = sorted(logged)
    steps = [int(state["global_step"]) for state in states]
    means = []
    for before, until in zip([0, *steps], steps, strict=False):
        bracketed = bool(known) and known[0] <= before + 1 and known[-1] >= until
        if not bracketed and not any(before < s <= until for s in known):
            return []
        rates = [_interpolated(known, logged, step) for step in range(before + 1, until + 1)]
        means.append(sum(rates) / len(rates) if rates else 0.0)
    return means if sum(means) > 0 else []


def _logged_rates(state: dict[str, Any]) -> dict[int, float]:
    """Learning rates by step, as far as the trainer's log has them as numbers."""
    history = state.get("log_history")
    entries = [e for e in history if isinstance(e, dict)] if isinstance(history, list) else []
    return {
        entry["step"]: float(entry["learning_rate"])
        for entry in entries
        if isinstance(entry.get("step"), int)
        and isinstance(entry.get("learning_rate"), int | float)
        and 0.0 <= entry["learning_rate"] < float("inf")
    }


def _interpolated(steps: Sequence[int], logged: dict[int, float], step: int) -> float:
    """The rate of a step, on the line between its neighbours among `steps`; beyond all of them the nearest one's."""
    at = bisect.bisect_left(steps, step)
    above, below = steps[min(at, len(steps) - 1)], steps[max(at - 1, 0)]
    if above in (step, below) or step > above:
        return logged[above]
    share = (step - below) / (above - below)
    return (1.0 - share) * logged[below] + share * logged[above]
