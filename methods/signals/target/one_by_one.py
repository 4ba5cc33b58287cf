"""Per-sample gradients by autograd, one sample at a time: the slow way that works with any trainable parameter.

It stands in for the engine where hooks do not see every parameter (DoRA, `modules_to_save`, experts), and has the
engine's interface. It costs a pass per sample, and builds every weight gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.training.chat import Encoded
from methods.signals.target.engine import Visit


class OneByOne:
    """As `LoraGradients`, for parameters of any kind; `modules` holds the trainable parameters themselves by name."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self.model = model
        named = dict(model.named_parameters())
        self.modules = {name: named[name] for name in names}
        for name, parameter in named.items():
            parameter.requires_grad_(name in self.modules)
        model.eval()

    def stream(self, items: Sequence[Encoded], weights: Sequence[float] | None, visit: Visit) -> None:
        """Call `visit([i], name, G)` for every item and parameter; G is [1, *shape], float32."""
        device = next(self.model.parameters()).device
        for index, item in enumerate(items):
            ids = torch.tensor([item.ids], device=device)
            logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            start = max(1, item.prompt_length)
            loss = torch.nn.functional.cross_entropy(logits[start - 1 :], ids[0, start:])
            scaled = loss * (1.0 if weights is None else weights[index])
            found = torch.autograd.grad(scaled, list(self.modules.values()), allow_unused=True)
            for (name, parameter), gradient in zip(self.modules.items(), found, strict=True):
                value = torch.zeros_like(parameter) if gradient is None else gradient
                visit([index], name, value.float()[None])
