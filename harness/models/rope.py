"""Rotary positions whose frequencies depend on the length of what is computed together, and contexts, from a config.

Two types of RoPE in transformers choose their frequencies from the largest position of a batch: `longrope` (Phi-3's
long contexts) has two sets, one up to the original context and one beyond it; `dynamic` (NTK-aware, dynamic) has one
up to the context and another for every length beyond it. One long sequence then changes the scores of its batch mates.
What is computed together must therefore be of one side of the boundary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.models.context import language_parts, setting


@dataclass(frozen=True, slots=True)
class RopeSwitch:
    """RoPE that takes other frequencies beyond `boundary` tokens; where `every`, others for each length beyond it."""

    kind: str
    boundary: int
    every: bool

    def side(self, length: int) -> int:
        """0 up to the boundary; sequences of equal side can be computed together."""
        return 0 if length <= self.boundary else length if self.every else 1


def rope_switch(config: Any) -> RopeSwitch | None:
    """The switch of a model's configuration (transformers' object, or config.json as a mapping); None without one."""
    found = [s for inner in language_parts(config) for s in _switches(inner)]
    return min(found, key=lambda s: s.boundary, default=None)


def by_side(switch: RopeSwitch | None, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sequences that can be computed together, in order of their first; all of them without a switch."""
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(switch.side(length) if switch else 0, []).append(index)
    yield from groups.values()


def apart_in_generation(switch: RopeSwitch, totals: Sequence[int]) -> list[list[int]]:
    """Indices of what can be generated in one batch, by prompt and longest completion together (in tokens).

    What may cross the boundary does so at a step of its own, and is generated alone.
    """
    short = [i for i, total in enumerate(totals) if total <= switch.boundary]
    return [*([short] if short else []), *([i] for i, total in enumerate(totals) if total > switch.boundary)]


def forget_lengths(model: Any) -> None:
    """Have dynamic RoPE depend on the present batch alone, not on the longest that the process has seen.

    transformers keeps the frequencies of the longest sequence until one comes that is shorter than the context, so that
    the scores of a sequence beyond it depend on what was scored before.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        layered = kinds if isinstance(kinds, Mapping) else {"": kinds}
        for layer, kind in layered.items():
            prefix = f"{layer}_" if layer else ""
            if "dynamic" in str(kind) and hasattr(module, f"{prefix}original_inv_freq"):
                module.register_forward_pre_hook(partial(_reset, prefix))


def _reset(prefix: str, module: Any, args: tuple[Any, ...]) -> None:
    current = getattr(module, f"{prefix}inv_freq")
    setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(current.device))
    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _switches(config: Any) -> Iterator[RopeSwitch]:
    declared = setting(config, "rope_parameters") or setting(config, "rope_scaling")
    if not isinstance(declared, Mapping):
        return
    context = setting(config, "max_position_embeddings")
    layered = [value for value in declared.values() if isinstance(value, Mapping)]
    for rope in layered or [declared]:
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        original = setting(config, "original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        boundary = (original or context) if kind in ("longrope", "su") else context
        if isinstance(boundary, int) and (kind in ("longrope", "su") or "dynamic" in kind):
            yield RopeSwitch(kind, boundary, "dynamic" in kind)
