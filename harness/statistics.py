"""Statistics that evaluation, signals and results share: the rank correlation, and the error of a mean of items."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, ties at their mean rank (Spearman 1904).

    None with fewer than three pairs, a side without spread, or a value that is no number. Raises `ValueError` for sides
    of different lengths.
    """
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} values beside {len(ys)}")
    if len(xs) < 3 or len(set(xs)) < 2 or len(set(ys)) < 2 or not all(map(math.isfinite, (*xs, *ys))):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(xs, ys).statistic)


def require_finite(values: Iterable[float]) -> None:
    """Raise `ValueError` where a value is NaN or infinite."""
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number; what was not measured is left out")


def standard_error(values: Sequence[float], clusters: Sequence[Hashable | None] | None = None) -> float | None:
    """Standard error of the mean of item-level values (0 or 1 for correctness, or paired differences).

    Without clusters sqrt(sum r² / (n (n - 1))) with r the residuals, which for 0/1 values is sqrt(p (1 - p) / (n - 1)).
    With clusters the residuals are first summed within each: sqrt(G / (G - 1) · sum_c (sum r)²) / n, the clustered
    error of Miller 2024 (arXiv 2411.00640, eq. 4) with the usual correction for G clusters; equal to the former when
    every cluster is one item. None and "" are no cluster: the item is one of its own. None with fewer than two items or
    clusters.
    """
    require_finite(values)
    n = len(values)
    groups = [None] * n if clusters is None else list(clusters)
    if len(groups) != n:
        raise ValueError(f"{n} values but {len(groups)} cluster keys")
    if n < 2:
        return None
    mean = math.fsum(values) / n
    sums: dict[Hashable, float] = {}
    for index, (value, group) in enumerate(zip(values, groups, strict=True)):
        key = (index,) if group in (None, "") else group
        sums[key] = sums.get(key, 0.0) + value - mean
    count = len(sums)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * math.fsum(s * s for s in sums.values())) / n
