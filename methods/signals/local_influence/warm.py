"""A warm-up checkpoint as a probe needs it: its adapter weights, Adam's moments, and the size of the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import StageError
from harness.training.adam_state import AdamState, load_adam_state
from methods.signals.base import WarmCheckpoint
from methods.signals.target.warm import Adapter, read_adapter


@dataclass(frozen=True)
class WarmPoint:
    """One checkpoint: its weight in the sum, its trained parameters by name, Adam's moments, and the step's size."""

    weight: float
    adapter: Adapter
    state: AdamState
    learning_rate: float


def warm_point(model: Any, checkpoint: WarmCheckpoint, trained: Mapping[str, Any], rate: float | None) -> WarmPoint:
    """Read a checkpoint and leave its adapter in `model`; `trained` are the linears or parameters by name.

    `rate` is the step's learning rate, by default the warm-up's peak, as Adam's state has it. Raises `StageError` for
    an adapter that does not fit the model, for moments that do not fit the adapter, and where no rate is known.
    """
    adapter = read_adapter(model, checkpoint, trained)
    state = load_adam_state(checkpoint.adam, trained, checkpoint.adapter)
    rate = rate or state.learning_rate
    if not rate:
        raise StageError(
            f"{checkpoint.adam} does not say which learning rate the warm-up had; set signal.learning_rate"
        )
    return WarmPoint(checkpoint.weight, adapter, state, rate)
