"""The loss of reference items under one adapter, or under many adapters in one forward pass.

A probe changes only the LoRA matrices, so K candidates' stepped adapters can share a forward pass: the reference
batch is repeated K times, and every LoRA matrix multiplies its own K blocks of rows (a batched product). That is the
same computation as K passes, not an approximation of it. Differences between two losses are what is wanted, and they
are small: token losses are taken and added up in float64, so that only the forward pass itself rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.errors import StageError
from harness.models.rope import rope_switch
from harness.training.batches import Collated, batches, collate
from harness.training.chat import Encoded

Adapters = Mapping[str, torch.Tensor]
"""K adapters by parameter name, each tensor [K, *parameter shape], float32."""

_LOSS_ELEMENTS = 2**22
"""Most logits that are turned into float64 at a time: 32 MB."""


class ReferenceLoss:
    """Mean completion loss of reference items; `tokens` bounds one forward pass, copies and padding included."""

    def __init__(self, model: Any, pad_id: int, tokens: int) -> None:
        self.model, self.pad_id, self.tokens = model, pad_id, tokens
        self._switch = rope_switch(getattr(model, "config", None))

    def plain(self, items: Sequence[Encoded]) -> torch.Tensor:
        """Loss of every item under the model as it is: [N], float64."""
        return self._losses(items, 1)[0]

    def stacked(self, items: Sequence[Encoded], modules: Mapping[str, Any], adapters: Adapters) -> torch.Tensor:
        """Loss of every item under each of K adapters: [K, N], float64. `modules` are the LoRA linears by name.

        Raises `StageError` where a module does not see one row per sequence, as experts do.
        """
        copies = next(iter(adapters.values())).shape[0]
        with _stacked(modules, adapters):
            return self._losses(items, copies)

    def _losses(self, items: Sequence[Encoded], copies: int) -> torch.Tensor:
        device = next(self.model.parameters()).device
        losses = torch.zeros(copies, len(items), dtype=torch.float64)
        lengths = [len(item.ids) for item in items]
        with torch.no_grad():
            for rows in batches(lengths, len(items), max(1, self.tokens // copies), "right", self._switch):
                batch = collate([items[i] for i in rows], [1.0] * len(rows), self.pad_id, "right", device)
                losses[:, rows] = self._batch(batch, copies).cpu()
        return losses

    def _batch(self, batch: Collated, copies: int) -> torch.Tensor:
        count, width = batch.ids.shape
        assert batch.attention is not None

        def restrict(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            # Only states that predict a completion token reach the head: [copies, n, hidden].
            return (args[0].reshape(copies, count * width, -1)[:, batch.predicting], *args[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(restrict)
        try:
            logits = self.model(
                input_ids=batch.ids.repeat(copies, 1),
                attention_mask=batch.attention.repeat(copies, 1),
                position_ids=batch.positions.repeat(copies, 1),
                use_cache=False,
            ).logits
        finally:
            handle.remove()
        losses = torch.zeros(copies, count, dtype=torch.float64, device=logits.device)
        for copy, own in enumerate(logits):
            losses[copy].index_add_(0, batch.predicting // width, _token_losses(own, batch.labels) * batch.shares)
        return losses


def _token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log p of each label [n] under its logits [n, V]: float64, a slice at a time where the vocabulary is large."""
    step = max(1, _LOSS_ELEMENTS // logits.shape[-1])
    parts = []
    for own, wanted in zip(logits.split(step), labels.split(step), strict=True):
        exact = own.double()
        parts.append(torch.logsumexp(exact, dim=-1) - exact.gather(1, wanted[:, None])[:, 0])
    return torch.cat(parts)


@contextmanager
def _stacked(modules: Mapping[str, Any], adapters: Adapters) -> Iterator[None]:
    """While open, the rows of a batch are K equal blocks, and block k passes through adapter k."""

    def hook(name: str) -> Any:
        matrices = adapters[name].transpose(1, 2)
        copies = matrices.shape[0]

        def forward(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x = inputs[0]
            if x.dim() != 3 or x.shape[0] % copies:
                raise StageError(f"{name} takes rows of shape {tuple(x.shape)}, which are not whole sequences")
            blocks = x.reshape(copies, -1, x.shape[-1])
            return torch.bmm(blocks, matrices.to(x.dtype)).reshape(output.shape)

        return forward

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
