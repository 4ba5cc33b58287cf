"""Control signals: they know nothing of the target. A signal that does not beat `random` has shown nothing.

`random` hashes the item's id with the seed, so it is the same wherever and whenever it is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import Sample, Score, Usage, stable_hash
from methods.signals.base import Archive, Item, SignalContext, TargetState


class _Control(ABC):
    name = ""

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Nothing is loaded."""
        self._seed = context.seed
        return {}

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item."""
        return [Score(item.id, self.name, self._value(item)) for item in items]

    def usage(self) -> list[Usage]:
        """Controls are free."""
        return []

    @abstractmethod
    def _value(self, item: Item) -> float: ...


class RandomSignal(_Control):
    """Uniform on [0, 1), a hash of seed and item id."""

    name = "random"

    def _value(self, item: Item) -> float:
        return int(stable_hash(self._seed, item.id, length=13), 16) / 16**13


class ConstantSignal(_Control):
    """1 for every item: under a training driver only validity is left to learn from."""

    name = "constant"

    def _value(self, item: Item) -> float:
        return 1.0


class LengthSignal(_Control):
    """Number of whitespace-separated words of question and answer (of a seed: of its text)."""

    name = "length"

    def _value(self, item: Item) -> float:
        if isinstance(item, Sample):
            return float(len(item.question.split()) + len(item.answer.split()))
        return float(len((item.text or "").split()))
