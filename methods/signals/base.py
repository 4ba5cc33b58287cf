"""What a signal is: a judgement of how good an item is for a target, as one protocol.

An item is a sample or a seed; a signal whose unit is `set` returns a selection instead of a score per item.
Reward shaping (scale, clipping, what an invalid sample gets) is not here: it belongs to the driver, since otherwise a
comparison of signals would compare scalings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from harness.config import EmbedderConfig, ScoringConfig
from harness.types import Message, Sample, Score, Seed, Usage

Item: TypeAlias = Sample | Seed


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """What a signal needs and promises; drivers and `plan` read it before anything is loaded.

    `needs` names prerequisites: `warm_target` (LoRA checkpoint with Adam's moments), `target`, `embedder`, `judge`,
    `planted` (the lab's truth). `range` bounds the value where it is bounded. `stateful` marks signals whose score
    depends on what was scored before.
    """

    direction: Literal["higher", "lower"] = "higher"
    range: tuple[float | None, float | None] = (None, None)
    needs: frozenset[str] = frozenset()
    cost_class: Literal["free", "embedding", "forward", "backward", "judge"] = "free"
    unit: Literal["item", "set"] = "item"
    items: frozenset[str] = frozenset({"sample"})
    stateful: bool = False
    reads_validation: bool = False
    lab_only: bool = False


@dataclass(frozen=True, slots=True)
class ValidationExample:
    """One validation conversation; `withheld` ones are scored beside the reward and never enter it.

    `subtask` names the group that an aggregate over subtasks takes its maximum over; empty where the set has none.
    """

    id: str
    messages: tuple[Message, ...]
    withheld: bool = False
    subtask: str = ""


@dataclass(frozen=True, slots=True)
class WarmCheckpoint:
    """A warm-up checkpoint: the folder of its LoRA adapter, its Adam moments, and its weight in a sum over checkpoints.

    Weights of a target's checkpoints sum to 1 (LESS §2: their learning rates, normalised).
    """

    adapter: Path
    adam: Path
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TargetState:
    """The target as signals see it: base weights, and the warm-up's checkpoints where a signal needs them.

    `revision` identifies the weights and is stored with every score; `hub_revision` is what a hub model is loaded at.
    """

    model: Path | str
    revision: str
    max_length: int
    dtype: str = "float32"
    hub_revision: str | None = None
    checkpoints: tuple[WarmCheckpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class SignalContext:
    """What a signal is prepared with. `settings` is the signal's own section of the configuration."""

    seed: int
    validation: Sequence[ValidationExample] = ()
    settings: Any = None
    lab_world: int | None = None
    batch_size: int = 64
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Archive:
    """What was accepted before, for signals that score novelty; empty outside closed loops."""

    samples: Sequence[Sample] = ()


class Signal(Protocol):
    """Scores items. `score` returns one `Score` per item, in order, and never raises for a single bad item."""

    name: str

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Load what is needed; returns facts for the manifest (self-checks, diagnostics)."""

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; `value` is None where the item could not be measured."""

    def usage(self) -> list[Usage]:
        """What scoring has cost since the last call."""


class SetSignal(Protocol):
    """A signal whose unit is the set: it returns the chosen items' ids, best first."""

    name: str

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """As `Signal.prepare`."""

    def select(self, items: Sequence[Item], count: int, archive: Archive) -> list[str]:
        """Ids of at most `count` items."""

    def usage(self) -> list[Usage]:
        """As `Signal.usage`."""
