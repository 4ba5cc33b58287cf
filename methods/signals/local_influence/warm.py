"""A warm-up checkpoint in memory: its adapter weights and Adam moments, and how they are put into the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.errors import StageError
from harness.training.adam_state import AdamState, load_adam_state
from methods.signals.base import WarmCheckpoint


@dataclass(frozen=True)
class WarmPoint:
    """One checkpoint: its weight in the sum, its trained parameters by name, Adam's moments, and the step's size."""

    weight: float
    adapter: Mapping[str, torch.Tensor]
    state: AdamState
    learning_rate: float


def warm_point(model: Any, checkpoint: WarmCheckpoint, trained: Mapping[str, Any], rate: float | None) -> WarmPoint:
    """Read a checkpoint and leave its adapter in `model`; `trained` are the linears or parameters by name.

    `rate` is the step's learning rate, by default the warm-up's peak, as Adam's state has it. Raises `StageError` for
    an adapter that does not fit the model, for moments that do not fit the adapter, and where no rate is known.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(checkpoint.adapter), device="cpu")
    if len(weights) != len(trained):
        raise StageError(
            f"the adapter at {checkpoint.adapter} has {len(weights)} matrices and the first checkpoint's "
            f"{len(trained)}; all checkpoints must be of one adapter"
        )
    try:
        loaded = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        raise StageError(
            f"the adapter at {checkpoint.adapter} does not fit the first checkpoint's: {str(error).splitlines()[-1]}"
        ) from None
    if loaded.unexpected_keys:
        raise StageError(f"the adapter at {checkpoint.adapter} has {loaded.unexpected_keys[0]}, the first has not")
    state = load_adam_state(Path(checkpoint.adam), trained, checkpoint.adapter)
    rate = rate or state.learning_rate
    if not rate:
        raise StageError(
            f"{checkpoint.adam} does not say which learning rate the warm-up had; set local_influence.learning_rate"
        )
    adapter = {name: tensor_of(module).detach().float().clone() for name, module in trained.items()}
    return WarmPoint(checkpoint.weight, adapter, state, rate)


def tensor_of(module: Any) -> torch.Tensor:
    """A linear's weight, or the parameter itself."""
    weight: torch.Tensor = getattr(module, "weight", module)
    return weight


def put(adapter: Mapping[str, torch.Tensor], trained: Mapping[str, Any]) -> None:
    """Make `adapter` the model's weights."""
    with torch.no_grad():
        for name, module in trained.items():
            tensor_of(module).copy_(adapter[name])
