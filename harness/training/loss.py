"""The loss of conversations under a model, without training: mean cross-entropy of each one's completion tokens.

The same tokens and the same mean as in fine-tuning and in influence, in evaluation mode and without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import StageError
from harness.training.chat import Encoded


def completion_losses(model: Any, items: Sequence[Encoded], batch_size: int = 64) -> list[float]:
    """Mean loss per completion token of every item, in nats, in the items' order; float32 whatever the model's type.

    Items are batched by length and padded on the right, which causal attention does not see. Raises `StageError` for
    an item without a completion token.
    """
    import torch

    if any(item.completion_length == 0 for item in items):
        raise StageError("a conversation has no completion token to measure the loss of; raise the model's max_length")
    model.eval()
    losses = [0.0] * len(items)
    order = sorted(range(len(items)), key=lambda i: len(items[i].ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(items[i].ids) for i in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        share = torch.zeros((len(rows), width))
        for row, i in enumerate(rows):
            ids[row, : len(items[i].ids)] = torch.tensor(items[i].ids)
            share[row, items[i].prompt_length : len(items[i].ids)] = 1.0 / items[i].completion_length
        ids, share = ids.to(model.device), share.to(model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        for i, value in zip(rows, (each * share[:, 1:]).sum(dim=1).tolist(), strict=True):
            losses[i] = value
    return losses
