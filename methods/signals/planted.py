"""`oracle` and `anti_oracle`: the lab's planted utility as a signal. They calibrate the bench and are never ranked.

These are the only signals that read the lab's truth.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.choice import NoSettings
from harness.errors import ConfigError
from harness.facts import Fact
from harness.types import Score, Seed
from methods.signals.base import Archive, Item, Preparation, Signal, SignalContext, TargetState
from methods.signals.items import UNLABELLED, answered, unlabelled


class OracleSignal(Signal[NoSettings]):
    """1 for a useful pair or labelled seed (asked, unknown to the target, true), else 0."""

    name = "oracle"
    summary = "lab only: the planted utility of a pair; calibrates the bench, never ranked"
    range = (0.0, 1.0)
    items = frozenset({"sample", "seed"})
    lab_only = True
    sign = 1.0

    @classmethod
    def needs(cls, settings: NoSettings) -> frozenset[str]:
        """The truth of the world that the run lives in."""
        return frozenset({"planted"})

    @classmethod
    def unscorable(cls, seed: Seed) -> str:
        """Worth is that of a question with its answer."""
        return unlabelled(seed)

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Open the lab world whose truth is read."""
        if context.lab_world is None:
            raise ConfigError(
                f"signal '{self.name}' reads the lab's planted truth; use it with --target nano and lab seeds"
            )
        from harness.lab.world import World

        self._world = World.of(context.lab_world)
        return Preparation((Fact("lab_world", context.lab_world.number, "world whose truth is read"),))

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """The planted utility, with the sign of this signal."""
        from harness.lab.planted import label

        scores = []
        for item in items:
            turns = answered(item)
            if turns:
                scores.append(Score(item.id, self.name, self.sign * label(turns, self._world).utility))
            else:
                scores.append(Score.unscorable(item.id, self.name, UNLABELLED))
        return scores


class AntiOracleSignal(OracleSignal):
    """The oracle's sign reversed: what a signal does that is exactly wrong."""

    name = "anti_oracle"
    summary = "lab only: the planted utility with its sign reversed; calibrates the bench, never ranked"
    range = (-1.0, 0.0)
    sign = -1.0
