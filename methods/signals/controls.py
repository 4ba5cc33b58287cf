"""Control signals: they know nothing of the target. A signal that does not beat `random` has shown nothing.

`random` hashes the item's id with the seed, so it is the same wherever and whenever it is computed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from harness.choice import NoSettings
from harness.types import Score, stable_hash
from methods.signals.base import Archive, Item, Preparation, Signal, SignalContext, TargetState
from methods.signals.similarity import compared_text


class _Control(Signal[NoSettings]):
    """Base of the controls: the same value for the same item, wherever and whenever it is asked for."""

    items = frozenset({"sample", "seed"})

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Nothing is loaded."""
        self._seed = context.seed
        return Preparation()

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item."""
        return [Score(item.id, self.name, self._value(item)) for item in items]

    @abstractmethod
    def _value(self, item: Item) -> float: ...


class RandomSignal(_Control):
    """Uniform on [0, 1), a hash of seed and item id."""

    name = "random"
    summary = "control: uniform noise, a hash of seed and item"
    range = (0.0, 1.0)
    drawn = True

    def _value(self, item: Item) -> float:
        return int(stable_hash(self._seed, item.id, length=13), 16) / 16**13


class ConstantSignal(_Control):
    """1 for every item: under a training driver only validity is left to learn from."""

    name = "constant"
    summary = "control: the same value for every item, so only validity is rewarded"
    range = (1.0, 1.0)

    def _value(self, item: Item) -> float:
        return 1.0


class LengthSignal(_Control):
    """Number of whitespace-separated words of question and answer (of a seed: of its text or turns)."""

    name = "length"
    summary = "control: number of words of question and answer"
    range = (0.0, None)

    def _value(self, item: Item) -> float:
        return float(len(compared_text(item).split()))
