"""The target at its warm-up checkpoints: one model in memory, into which a checkpoint's adapter is copied.

Every signal that differentiates the target opens it here. `WarmTarget` adds the influence engine. In half precision it
has the adapter compute in the model's type: kept in float32 its inputs would be converted and stored a second time at
every matrix. What the rounding changes is part of the self-check against float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.config_runtime import ScoringConfig
from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.adam_state import AdamState, load_adam_state
from harness.training.chat import Encoded, encode
from harness.types import Message
from methods.signals.base import TargetState, WarmCheckpoint
from methods.signals.target.engine import LoraGradients

Adapter = Mapping[str, torch.Tensor]
"""A checkpoint's trained weights by parameter name, float32."""


def open_warm(target: TargetState, dtype: str) -> tuple[Any, Any]:
    """The base model under the first checkpoint's adapter, its adapter trainable, and its tokenizer."""
    from peft import PeftModel

    torch.manual_seed(0)
    base, tokenizer = load_causal_lm(target.model, dtype, target.hub_revision)
    return PeftModel.from_pretrained(base, target.checkpoints[0].adapter, is_trainable=True), tokenizer


def read_adapter(model: Any, checkpoint: WarmCheckpoint, trained: Mapping[str, Any]) -> Adapter:
    """The weights of a checkpoint, which are left in `model`; `trained` are its linears or parameters by name.

    Raises `StageError` for an adapter of another shape than the model's, which is the first checkpoint's.
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
    return {name: _tensor(module).detach().float().clone() for name, module in trained.items()}


def put(adapter: Adapter, trained: Mapping[str, Any]) -> None:
    """Make `adapter` the model's weights."""
    with torch.no_grad():
        for name, module in trained.items():
            _tensor(module).copy_(adapter[name])


def _tensor(module: Any) -> torch.Tensor:
    """A linear's weight, or the parameter itself."""
    weight: torch.Tensor = getattr(module, "weight", module)
    return weight


class WarmTarget:
    """The base `model` under a checkpoint's adapter, its `tokenizer`, and the engine on it, `gradients`."""

    def __init__(self, target: TargetState, batch_size: int, scoring: ScoringConfig) -> None:
        self.target = target
        self.model, self.tokenizer = open_warm(target, target.dtype)
        dtype = self.model.get_input_embeddings().weight.dtype
        self.gradients = LoraGradients(self.model, self.tokenizer.pad_token_id, batch_size, scoring)
        self._adapters = [read_adapter(self.model, c, self.gradients.modules) for c in target.checkpoints]
        for module in self.gradients.modules.values():
            module.weight.data = module.weight.data.to(dtype)
        self.enter(0)

    def enter(self, index: int) -> None:
        """Make checkpoint `index` the one that the model computes with."""
        put(self._adapters[index], self.gradients.modules)

    def adam_state(self, index: int) -> AdamState:
        """Adam's moments at checkpoint `index`, on the model's device."""
        checkpoint = self.target.checkpoints[index]
        return load_adam_state(checkpoint.adam, self.gradients.modules, checkpoint.adapter)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """A conversation's tokens, cut at the target's `max_length`."""
        return encode(self.tokenizer, messages, self.target.max_length)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """All weights in float32, the adapter's unrounded; afterwards everything is as it was, to the bit."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        narrow = [(t, t.dtype) for t in tensors if t.is_floating_point() and t.dtype != torch.float32]
        for tensor, _ in narrow:
            tensor.data = tensor.data.float()
        self.enter(0)
        try:
            yield
        finally:
            for tensor, dtype in narrow:
                tensor.data = tensor.data.to(dtype)
            self.enter(0)

    def float32_bytes(self) -> int:
        """Memory that `in_float32` takes beside what is loaded."""
        return sum(p.numel() * (4 - p.element_size()) for p in self.model.parameters())
