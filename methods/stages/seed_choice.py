"""Rules of active learning, by which a round of a loop takes seeds from a pool whose scores are there already.

Every rule is a function of the scores, a seed of randomness and the round, whatever the order of the pool. Many seeds
have equal scores (a planted utility is 0 or 1), so ties go by chance, anew in every round: else a loop would take the
same seeds again and again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.types import Score, Seed, stable_hash
from methods.signals.sets import PICK

SeedRule: TypeAlias = Literal["top", "bottom", "balanced", "set"]
"""The best-scored seeds, the worst, as many by chance out of either half, or what a signal that chooses sets takes."""


@dataclass(frozen=True, slots=True)
class Count:
    """So many items of a pool, from no groups: what a signal that chooses sets is asked for."""

    count: int

    def wanted(self, items: Sequence[Any]) -> tuple[int, None]:
        """See `methods.stages.scoring.Wanted`."""
        return self.count, None


def pool_of(seeds: Sequence[Seed], size: int, seed: int) -> list[Seed]:
    """`size` of the seeds, drawn by chance and in their own order; all where there are no more."""
    if len(seeds) <= size:
        return list(seeds)
    drawn = {s.id for s in sorted(seeds, key=lambda s: stable_hash("pool", seed, s.id))[:size]}
    return [s for s in seeds if s.id in drawn]


def choose(values: Mapping[str, float], rule: SeedRule, count: int, *seed: int) -> list[str]:
    """At most `count` ids of scored seeds under a rule for single scores, higher being better; in order of choice.

    Under `balanced` one more comes of the better half where `count` is odd, and a half that runs out is made up for by
    the other. Raises `ValueError` for rule `set`, whose choice its signal has made (`chosen_by_signal`).
    """
    if rule == "set":
        raise ValueError("a set is chosen by its signal")
    noise = {key: stable_hash("choice", *seed, key) for key in values}
    ranked = sorted(values, key=lambda key: (-values[key], noise[key]))
    if rule == "top":
        return ranked[:count]
    if rule == "bottom":
        return sorted(values, key=lambda key: (values[key], noise[key]))[:count]
    middle = math.ceil(len(ranked) / 2)
    better, worse = (sorted(half, key=lambda key: noise[key]) for half in (ranked[:middle], ranked[middle:]))
    low = min(count // 2, len(worse))
    high = min(count - low, len(better))
    return [*better[:high], *worse[: min(count - high, len(worse))]]


def chosen_by_signal(scores: Sequence[Score]) -> list[str]:
    """The ids that a signal which chooses sets has taken, first to last."""
    picked = [s for s in scores if s.value is not None and PICK in s.parts]
    return [s.item_id for s in sorted(picked, key=lambda s: s.parts[PICK])]
