"""A stage's statements before it runs: its cost, and what it holds in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One stage's estimate. `rows` is what it reads and `out` what it keeps; None means not estimated.

    `seconds` is None where a model's size is unknown. `compute` are the operations of training, scoring and reading,
    `moved` the bytes that decoding reads; `usd` what endpoints with a known price charge, None where a model that the
    stage calls has none. `models` has tokens in and out by role. `group` is how many of the rows are made of one
    document. `note` names what the figures count.
    """

    rows: int | None
    out: int | None
    tokens_in: int = 0
    tokens_out: int = 0
    flops: float = 0.0
    seconds: float | None = 0.0
    note: str = ""
    compute: float = 0.0
    moved: float = 0.0
    models: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    usd: float | None = None
    group: int = 1


Before = Mapping[str, Cost | None]
"""Estimates of the stages that a stage is made from, near and far, by name; None where one is not known."""

WHOLE = "which is not divided: choose a smaller model or batch"
SERVED = "by a vLLM server over them"


@dataclass(frozen=True, slots=True)
class Part:
    """One model's memory in one part of a run. `divided` says how it goes on several devices, where it does."""

    role: str
    what: str
    bytes: int
    divided: str = WHOLE


@dataclass(frozen=True, slots=True)
class Load:
    """The parts that are in memory together during one part of a run."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """The sum over the parts."""
        return sum(part.bytes for part in self.parts)
