"""Normalisers: from the raw values of one signal to numbers that can be added to another's.

Each is fitted once, on the values of a reference, and is the same ever after: the number that an item gets does not
depend on what is scored beside it. Where the reference has one value alone, nothing can be told apart, and every item
gets 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal, TypeAlias

How: TypeAlias = Literal["z", "cdf", "minmax"]
"""In standard deviations from the mean, the share of the reference that lies below, or from lowest to highest."""

Z_LIMIT = 3.0
"""The farthest from the mean that a cut z-score goes, in standard deviations."""


class Normaliser(ABC):
    """A fitted normaliser of values of which higher is better. `spread`: the reference has more than one value."""

    def __init__(self, values: Sequence[float], cut: bool) -> None:
        self.ordered, self.cut = sorted(values), cut
        self.spread = self.ordered[-1] > self.ordered[0]

    def __call__(self, value: float) -> float:
        """The number that stands for `value`."""
        return self._of(value) if self.spread else 0.0

    @abstractmethod
    def _of(self, value: float) -> float:
        """As called, where there is spread."""

    @property
    def line(self) -> str:
        """What it was fitted on, for people."""
        if not self.spread:
            return f"{self.ordered[0]:.3g} throughout, so that the term counts 0"
        return f"{self.ordered[0]:.3g} to {self.ordered[-1]:.3g}"


class ZScore(Normaliser):
    """(v − mean) / standard deviation of the reference (divisor n), cut at ±3 where asked."""

    def __init__(self, values: Sequence[float], cut: bool) -> None:
        super().__init__(values, cut)
        self.mean = math.fsum(values) / len(values)
        self.sd = math.sqrt(math.fsum((v - self.mean) ** 2 for v in values) / len(values))

    def _of(self, value: float) -> float:
        z = (value - self.mean) / self.sd
        return max(-Z_LIMIT, min(Z_LIMIT, z)) if self.cut else z

    @property
    def line(self) -> str:
        """Mean and standard deviation."""
        return f"mean {self.mean:.3g}, sd {self.sd:.3g}" if self.spread else super().line


class EmpiricalCdf(Normaliser):
    """The share of the reference below v, equal values counted half: from 0 to 1."""

    def _of(self, value: float) -> float:
        below, upto = bisect_left(self.ordered, value), bisect_right(self.ordered, value)
        return (below + upto) / (2 * len(self.ordered))


class MinMax(Normaliser):
    """(v − lowest) / (highest − lowest) of the reference, cut to 0 and 1 where asked."""

    def _of(self, value: float) -> float:
        share = (value - self.ordered[0]) / (self.ordered[-1] - self.ordered[0])
        return max(0.0, min(1.0, share)) if self.cut else share


KINDS: dict[How, type[Normaliser]] = {"z": ZScore, "cdf": EmpiricalCdf, "minmax": MinMax}


def fit(how: How, values: Sequence[float], *, cut: bool) -> Normaliser:
    """A normaliser of this kind fitted on `values`, of which there is at least one."""
    return KINDS[how](values, cut)
