"""Spearman's rank correlation, for what is said of scores and for what is compared with them."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
