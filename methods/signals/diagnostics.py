"""Figures of one scoring, as labelled values: what every signal reports, and what signals add of the parts they keep.

A score that follows the sample's length, or the gradient's norm, ranks by something cheaper. Correlations are
Spearman's; fewer than 3 items, a constant, or a score without the part leave none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.facts import Fact
from harness.statistics import spearman
from harness.types import Score


def score_facts(scores: Sequence[Score]) -> list[Fact]:
    """The number of scored items, and the mean and spread of their values."""
    values = [s.value for s in scores if s.value is not None]
    return [
        Fact("scored", len(values), "scored", "items"),
        Fact("unscorable", len(scores) - len(values), "could not be scored", "items"),
        Fact("mean", _mean(values), "mean score"),
        Fact("sd", _sd(values), "standard deviation of the scores"),
    ]


def cut_items(scores: Sequence[Score]) -> Fact:
    """The number of items that were scored on what the target's length left of their answer."""
    cut = sum(s.parts.get("truncated_tokens", 0.0) > 0 for s in _scored(scores))
    return Fact("truncated", cut, "scored on a part of their answer", "items")


def follows(scores: Sequence[Score], part: str, name: str, meaning: str) -> Fact:
    """The rank correlation of the scores with one of their parts."""
    known = _scored(scores)
    values = [s.value for s in known if s.value is not None]
    return Fact(name, spearman(values, column(known, part)), f"rank correlation {meaning}")


def agreement(scores: Sequence[Score], first: str, second: str, name: str, meaning: str) -> Fact:
    """The rank correlation between two of the scores' parts."""
    known = _scored(scores)
    return Fact(name, spearman(column(known, first), column(known, second)), f"rank correlation {meaning}")


def mean_of(scores: Sequence[Score], part: str, name: str, meaning: str) -> Fact:
    """The mean of one of the scores' parts over the items that have it."""
    return Fact(name, _mean([x for x in column(_scored(scores), part) if math.isfinite(x)]), meaning)


def column(scores: Sequence[Score], part: str) -> list[float]:
    """One part of every score; NaN where a score has none."""
    return [s.parts.get(part, math.nan) for s in scores]


def _scored(scores: Sequence[Score]) -> list[Score]:
    return [s for s in scores if s.value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
