"""`oracle` and `anti_oracle`: the lab's planted utility as a signal. They calibrate the bench and are never ranked.

These are the only signals that read the lab's truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import ConfigError
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, SignalContext, TargetState


class OracleSignal:
    """1 for a useful pair (asked, unknown to the target, true), else 0."""

    name = "oracle"
    sign = 1.0

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Open the lab world whose truth is read."""
        if context.lab_world is None:
            raise ConfigError(
                f"signal '{self.name}' reads the lab's planted truth; use it with --target nano and lab seeds"
            )
        from harness.lab.world import World

        self._world = World(context.lab_world)
        return {"lab_world": context.lab_world}

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """The planted utility, with the sign of this signal."""
        from harness.lab.planted import label

        scores = []
        for item in items:
            if not isinstance(item, Sample):
                scores.append(Score(item.id, self.name, None, "unscorable", "only samples have a planted utility"))
                continue
            scores.append(Score(item.id, self.name, self.sign * label(item.messages, self._world).utility))
        return scores

    def usage(self) -> list[Usage]:
        """Reading the truth is free."""
        return []


class AntiOracleSignal(OracleSignal):
    """The oracle's sign reversed: what a signal does that is exactly wrong."""

    name = "anti_oracle"
    sign = -1.0
