"""The record of a role's model: what kind of name it has, where its weights are, its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import estimate
from harness.estimate import ModelShape


@dataclass(frozen=True, slots=True)
class RoleModel:
    """A role's model: `folder` where its weights are here, `shape` where its architecture is known."""

    role: str
    id: str
    dtype: str
    kind: str
    folder: Path | None
    shape: ModelShape | None

    @property
    def weight_bytes(self) -> int | None:
        """Size of the weights, where the architecture is known."""
        return estimate.weight_bytes(self.shape, self.dtype) if self.shape else None

    @property
    def sized(self) -> bool:
        """Whether what the model computes on this side is known: nothing, or by its architecture."""
        return self.shape is not None or self.kind in ("built-in", "vectors", "endpoint", "service")

    def flops(self, tokens: float) -> float:
        """Operations of a forward pass over `tokens` tokens; 0 where the architecture is not known."""
        return estimate.forward_flops(self.shape, tokens) if self.shape else 0.0
