"""Differences and their uncertainty, with the unit that each is valid for.

Comparing methods takes runs as units: items of one run share its training noise, and a test over items alone calls
equal methods different far too often. Item-level errors are here too, because they say how far two given models are
apart on a given test, which is a smaller question. A value that is no finite number is refused everywhere: it would
pass through a mean or a comparison without a word. Gives up: crossed run-by-item errors and pooled variances.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from harness.statistics import require_finite, standard_error

SKEW_ERRORS = 2.0
"""Standard errors of a normal sample's skewness beyond which a sample is called skewed; 5 % of normal samples are."""

SKEW_NOTE = (
    "Student's interval keeps its 95 % under symmetric noise, heavy tails and unequal spreads included. With strong",
    "one-sided skew in one arm it misses the truth more often: 15 to 18 % of the time instead of 5 % with ten to five",
    "pairs and log-normal noise. `skewed` marks differences whose skewness is beyond 2 standard errors of a normal",
    "sample's. Few pairs show little (5: a fifth of such cases, 10: half, 20: five in six), fewer than 5 nothing.",
)
"""How to read an interval that is shown; the figures are from tests/benchmarks/interval_skew.py."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference, in the unit of the values, over `n` pairs.

    `low` and `high` bound the 95 % interval; they, `sd` and `p` (two-sided) are None with fewer than two pairs. `skew`
    is the skewness of the differences, None with fewer than three or without spread.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    sd: float | None
    p: float | None
    skew: float | None = None

    @property
    def skewed(self) -> bool:
        """Whether the differences lean to one side beyond `SKEW_ERRORS`, so that the interval may not hold.

        Below 5 pairs no sample can, whatever it is drawn from.
        """
        return self.skew is not None and abs(self.skew) > SKEW_ERRORS * skewness_error(self.n)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False where there is no interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def skewness(values: Sequence[float]) -> float | None:
    """G1 = sqrt(n (n - 1)) / (n - 2) · m3 / m2^1.5 with the central moments m2 and m3 (Joanes and Gill 1998).

    None with fewer than three values, or where they are all equal.
    """
    n = len(values)
    if n < 3 or len(set(values)) < 2:
        return None
    mean = math.fsum(values) / n
    m2 = math.fsum((v - mean) ** 2 for v in values) / n
    m3 = math.fsum((v - mean) ** 3 for v in values) / n
    return math.sqrt(n * (n - 1)) / (n - 2) * m3 / m2**1.5 if m2 > 0 else None


def skewness_error(n: int) -> float:
    """Standard error of G1 in samples of n >= 3 normal values: sqrt(6 n (n - 1) / ((n - 2) (n + 1) (n + 3)))."""
    return math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1 in the denominator; None for one value)."""
    if not values:
        raise ValueError("no values")
    require_finite(values)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], level: float = 0.95) -> Difference:
    """Mean of a - b over the units (runs, worlds) that both have, with Student's t interval.

    With d the n differences, mean and s their sample mean and standard deviation: mean ± t(n - 1) · s / sqrt(n), and
    t = mean / (s / sqrt(n)) for the test (Student 1908, "The probable error of a mean"). Differences that are all equal
    have an interval of no width, and p is 0, or 1 where they are zero. Raises `ValueError` without a shared unit, and
    for a value of either side that is no finite number.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("the two sides have no unit in common")
    require_finite([*a.values(), *b.values()])
    differences = [a[unit] - b[unit] for unit in shared]
    mean, sd = mean_sd(differences)
    n = len(shared)
    if sd is None:
        return Difference(mean=mean, low=None, high=None, n=n, sd=None, p=None)
    if sd == 0.0:
        return Difference(mean=mean, low=mean, high=mean, n=n, sd=0.0, p=1.0 if mean == 0.0 else 0.0)
    from scipy.stats import t as student

    error = sd / math.sqrt(n)
    half = float(student.ppf(0.5 + level / 2, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1))
    return Difference(mean=mean, low=mean - half, high=mean + half, n=n, sd=sd, p=p, skew=skewness(differences))


def paired_items(
    a: Mapping[str, float], b: Mapping[str, float], clusters: Mapping[str, Hashable] | None = None
) -> tuple[float, float | None]:
    """Mean of a - b over the same items and its standard error (of the differences, so that hard items cancel).

    Raises `ValueError` where the two sides are not of the same items.
    """
    if a.keys() != b.keys() or not a:
        raise ValueError("the two sides are not of the same items")
    require_finite([*a.values(), *b.values()])
    keys = sorted(a)
    differences = [a[key] - b[key] for key in keys]
    groups = None if clusters is None else [clusters[key] for key in keys]
    return math.fsum(differences) / len(keys), standard_error(differences, groups)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: the i-th smallest of m p-values times m - i + 1, never below the one before it.

    Rejecting where the adjusted value is at most α keeps the chance of any false rejection in the family at α
    (Holm 1979, "A simple sequentially rejective multiple test procedure").
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"the p-value of {name} is {p}, which is no probability")
    adjusted: dict[str, float] = {}
    running = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        running = max(running, min(1.0, (len(p_values) - i) * p_values[name]))
        adjusted[name] = running
    return adjusted
