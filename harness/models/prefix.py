"""The common beginning of a batch's prompts, read once: worked examples are most of a small model's prompt.

A prefix is computed as a row of its own, and its keys and values are shown to every row of the batch. Padding then
stands between the prefix and what is left of a row, where the mask hides it and positions do not count it; so models
whose attention reaches back by a number of places (sliding windows), or that carry a state from place to place instead
of keys, are given whole rows. A server does the same by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.models.context import language_parts, setting

SHORTEST = 32
"""Tokens below which a common beginning is not worth a pass of its own."""


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows share, leaving every row one of its own; 0 where too few to be shared."""
    if len(rows) < 2:
        return 0
    first, last = min(map(list, rows)), max(map(list, rows))
    most = min(len(row) for row in rows) - 1
    count = next((i for i in range(most) if first[i] != last[i]), most)
    return count if count >= SHORTEST else 0


def attends_to_all(config: Any) -> bool:
    """Whether every layer of a model with this configuration attends to all that precedes a token, wherever it is."""
    for part in language_parts(config):
        kinds = setting(part, "layer_types")
        if kinds and set(kinds) != {"full_attention"}:
            return False
        if not kinds and (setting(part, "model_type") not in _FULL or setting(part, "sliding_window")):
            return False
    return True


_FULL = ("llama", "qwen2", "qwen3")
"""Architectures without `layer_types` in their configuration that are known to attend to everything."""


def read_prefix(model: Any, ids: Sequence[int], rows: int) -> Any:
    """The keys and values of the prefix `ids`, once for each of `rows` rows: a cache for `model.generate`."""
    import torch

    cache = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=True).past_key_values
    cache.batch_repeat_interleave(rows)
    return cache
