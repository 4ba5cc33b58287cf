"""Items cut into batches, and a batch laid out as tensors: padded on the right or left, or packed into one row.

Items are sorted by length inside what they are given, so that a batch holds little padding, and a batch is bounded by
its tokens rather than by its rows: one long item would make all of its batch as long. Callers cut shards before this
sorts, so that an item's batch depends on its shard alone and scores do not depend on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from harness.models.rope import RopeSwitch
from harness.training.chat import Encoded

Layout = Literal["right", "left", "packed"]


def batches(
    lengths: Sequence[int], size: int, tokens: int, layout: Layout = "right", switch: RopeSwitch | None = None
) -> Iterator[list[int]]:
    """Indices of items by rising length, at most `size` in a batch and `tokens` in it (or one item).

    Padding counts as tokens; a packed batch has none. A batch's items are of one side of `switch`, where there is one.
    """
    batch: list[int] = []
    held = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        full = held + lengths[index] if layout == "packed" else (len(batch) + 1) * lengths[index]
        apart = bool(batch) and switch is not None and switch.side(lengths[batch[0]]) != switch.side(lengths[index])
        if batch and (apart or len(batch) == size or full > tokens):
            yield batch
            batch, held = [], 0
        batch.append(index)
        held += lengths[index]
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Collated:
    """One batch as the model takes it.

    `ids` and `positions` are [R, T], with R = B rows, or 1 where packed; `attention` is [R, T], or None where packed:
    restarting positions then tell the items apart. `spans` gives each item's (row, start, end). Of the flattened R·T
    hidden states, those at `predicting` [K] predict `labels` [K], and each loss counts with `shares` [K].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    attention: torch.Tensor | None
    spans: tuple[tuple[int, int, int], ...]
    predicting: torch.Tensor
    labels: torch.Tensor
    shares: torch.Tensor

    @property
    def packed(self) -> bool:
        """Whether all items share one row."""
        return self.attention is None


def collate(
    items: Sequence[Encoded], weights: Sequence[float], pad_id: int, layout: Layout, device: torch.device | str
) -> Collated:
    """Lay `items` out. An item's loss is the mean over its completion tokens, times its weight.

    The first token of a sequence has nothing before it that could predict it, and carries no loss.
    """
    lengths = [len(item.ids) for item in items]
    width = sum(lengths) if layout == "packed" else max(lengths)
    rows = 1 if layout == "packed" else len(items)
    ids = torch.full((rows, width), pad_id)
    positions = torch.zeros((rows, width), dtype=torch.long)
    attention = torch.zeros((rows, width), dtype=torch.long)
    spans: list[tuple[int, int, int]] = []
    predicting: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    shares: list[torch.Tensor] = []
    used = 0
    for number, (item, weight) in enumerate(zip(items, weights, strict=True)):
        length = lengths[number]
        row = 0 if layout == "packed" else number
        start = {"right": 0, "left": width - length, "packed": used}[layout]
        used += length
        tokens = torch.tensor(item.ids)
        ids[row, start : start + length] = tokens
        positions[row, start : start + length] = torch.arange(length)
        attention[row, start : start + length] = 1
        spans.append((row, start, start + length))
        first = max(1, item.prompt_length)
        predicting.append(torch.arange(first - 1, length - 1) + row * width + start)
        labels.append(tokens[first:])
        shares.append(torch.full((length - first,), weight / max(1, length - first)))
    return Collated(
        ids=ids.to(device),
        positions=positions.to(device),
        attention=None if layout == "packed" else attention.to(device),
        spans=tuple(spans),
        predicting=torch.cat(predicting).to(device),
        labels=torch.cat(labels).to(device),
        shares=torch.cat(shares).to(device),
    )
