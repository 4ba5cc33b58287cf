"""The selection of generated pairs for a data set: how many are drawn of each seed, which are kept, by which signal.

One record serves everybody who has to know: regeneration, which draws until what is kept reaches the budget; the stage
that scores; the data set, which chooses; and the estimate of how many draws that takes.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.config import SignalChoice
from harness.types import Reject, Sample, derive_seed

SelectionRule = Literal["none", "top_share", "best_of_seed"]
"""Everything, a share of all, or the best of every seed."""

Order = Literal["top", "bottom", "gumbel"]
"""By which a share is taken: the best first, the worst first, or as Gumbel noise has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """`per_seed` draws of each seed in a pass; of those that pass the gate, what `rule` keeps by `signal`.

    `keep` is the share of `top_share`, and `order` what it takes first, at `temperature` and with `seed` where it is
    drawn. There is a signal unless everything is kept.
    """

    per_seed: int
    rule: SelectionRule = "none"
    keep: float = 1.0
    signal: SignalChoice | None = None
    order: Order = "top"
    temperature: float = 0.0
    seed: int = 0

    @property
    def best(self) -> bool:
        """Whether one of every seed is kept."""
        return self.rule == "best_of_seed"

    @property
    def draw_settings(self) -> dict[str, Any]:
        """The settings that change how much is drawn."""
        return {"per_seed": self.per_seed, "keep": self.keep, **({"best": True} if self.best else {})}

    @property
    def choice_settings(self) -> dict[str, Any]:
        """The settings that change what is chosen of given pairs and scores."""
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.order == "gumbel" else {}
        # What was chosen before there was another order is named as it was.
        order = {} if self.order == "top" else {"order": self.order, **drawn}
        return {"selection": self.rule, "keep": self.keep if self.rule == "top_share" else None, **order}

    def least(self, samples: Sequence[Sample], weigh: Callable[[Sample], float]) -> float:
        """The weight of what is kept of `samples` at its worst, as if it were what weighs least."""
        if self.best:
            lightest: dict[tuple[str, ...], float] = {}
            for s in samples:
                lightest[s.seed_ids] = min(weigh(s), lightest.get(s.seed_ids, weigh(s)))
            return sum(lightest.values())
        sizes = sorted(weigh(s) for s in samples)
        return sum(sizes[: self._count(len(sizes))])

    def most(self, pairs: int, seeds: int) -> int:
        """The number of `pairs`, made from `seeds`, that can be kept at most."""
        return min(pairs, seeds) if self.best else self._count(pairs)

    def wanted(self, samples: Sequence[Sample]) -> tuple[int, list[tuple[str, ...]] | None]:
        """The number of `samples` asked of a signal that chooses sets, and the groups of which one each is chosen."""
        if self.best:
            seeds = [s.seed_ids for s in samples]
            return len(set(seeds)), seeds
        return self._count(len(samples)), None

    def choose(
        self, samples: Sequence[Sample], values: Mapping[str, float | None]
    ) -> tuple[list[Sample], list[Reject]]:
        """The samples that are kept, and the reasons why the others are not.

        Samples without a value are excluded, never taken for 0; ties go to the earlier sample.
        """
        if self.rule == "none":
            return list(samples), []
        scored = [s for s in samples if values.get(s.id) is not None]
        rejects = [Reject(s.id, "unscored", s.raw) for s in samples if values.get(s.id) is None]
        place = {s.id: i for i, s in enumerate(scored)}
        merit = self._merit({s.id: float(values[s.id] or 0.0) for s in scored})
        ranked = sorted(scored, key=lambda s: (-merit[s.id], place[s.id]))
        if self.best:
            first: dict[tuple[str, ...], str] = {}
            for s in ranked:
                first.setdefault(s.seed_ids, s.id)
            taken = set(first.values())
        else:
            taken = {s.id for s in ranked[: self._count(len(ranked))]}
        rejects += [Reject(s.id, "not_selected", s.raw) for s in scored if s.id not in taken]
        return [s for s in scored if s.id in taken], rejects

    def _merit(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """What is ranked by, the highest first: the values, turned round under `bottom`, or with noise under `gumbel`.

        The k highest of z / temperature + Gumbel noise are a draw of k without replacement, each in proportion to
        exp(z / temperature) among those left (Kool et al., arXiv 1903.06059 §3); so QuRating selects (arXiv
        2402.09739). z is over `values`, by their population's deviation. The noise of an item is its own, so that it
        does not change with what else is in the pool.
        """
        if self.order == "bottom":
            return {key: -value for key, value in values.items()}
        if self.order == "top" or self.temperature == 0 or not values:
            return values
        mean, sd = statistics.fmean(values.values()), statistics.pstdev(values.values())
        scale = self.temperature * sd if sd else 1.0
        return {key: (value - mean) / scale + gumbel(self.seed, key) for key, value in values.items()}

    def kept_share(self, survive: float) -> float:
        """The share of draws that is kept, where the share `survive` passes checks and gate."""
        return 1.0 / self.per_seed if self.best else survive * self.keep

    def _count(self, count: int) -> int:
        """The number of `count` samples that the share `keep` is, to the nearest."""
        return round(count * self.keep)


def gumbel(seed: int, key: str) -> float:
    """A draw of the standard Gumbel distribution, -ln(-ln u), that follows from the seed and the item's id."""
    draw = random.Random(derive_seed("gumbel", seed, key)).random()
    return -math.log(-math.log(draw)) if 0 < draw < 1 else -math.inf
