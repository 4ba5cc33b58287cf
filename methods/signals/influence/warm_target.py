"""The target at its warm-up checkpoints: one model in memory, into which a checkpoint's adapter is copied.

In half precision the adapter computes in the model's type: kept in float32 its inputs would be converted and stored a
second time at every matrix. What the rounding changes is part of the self-check against float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.config import ScoringConfig
from harness.models.transformers_backend import load_causal_lm
from harness.training.adam_state import AdamState, load_adam_state
from harness.training.chat import Encoded, encode
from harness.types import Message
from methods.signals.base import TargetState
from methods.signals.influence.engine import LoraGradients


class WarmTarget:
    """The base `model` under a checkpoint's adapter, its `tokenizer`, and the engine on it, `gradients`."""

    def __init__(self, target: TargetState, batch_size: int, scoring: ScoringConfig) -> None:
        from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

        self.target = target
        torch.manual_seed(0)
        base, self.tokenizer = load_causal_lm(target.model, target.dtype, target.hub_revision)
        self.model: Any = PeftModel.from_pretrained(base, target.checkpoints[0].adapter, is_trainable=True)
        self.gradients = LoraGradients(self.model, self.tokenizer.pad_token_id, batch_size, scoring)
        self._weights: list[dict[str, torch.Tensor]] = []
        for checkpoint in target.checkpoints:
            if checkpoint is not target.checkpoints[0]:
                set_peft_model_state_dict(self.model, load_peft_weights(str(checkpoint.adapter)))
            self._weights.append({n: m.weight.detach().float().clone() for n, m in self.gradients.modules.items()})
        for module in self.gradients.modules.values():
            module.weight.data = module.weight.data.to(base.dtype)
        self.enter(0)

    def enter(self, index: int) -> None:
        """Make checkpoint `index` the one that the model computes with."""
        for name, module in self.gradients.modules.items():
            module.weight.data.copy_(self._weights[index][name])

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
