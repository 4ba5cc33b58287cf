"""What is reported with every scoring, because a score alone does not say whether it can be believed.

Influence that follows the gradient's norm or the sample's length ranks by something cheaper; halves of the validation
set that disagree say that the set is too small or too mixed to be read; and where most of the score is the momentum
that all candidates share, the spread is small against the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.types import Score


def diagnose(scores: Sequence[Score]) -> Mapping[str, float | None]:
    """Figures of one scoring. Correlations are Spearman's, None where fewer than 3 items or a constant leave none."""
    known = [s for s in scores if s.value is not None]
    values = [s.value for s in known if s.value is not None]
    column = {name: [s.parts.get(name, math.nan) for s in known] for name in _PARTS}
    mean = sum(values) / len(values) if values else None
    return {
        "scored": float(len(known)),
        "unscorable": float(len(scores) - len(known)),
        "mean": mean,
        "sd": _sd(values),
        "gradient_norm": sum(column["gradient_norm"]) / len(known) if known else None,
        "correlation_gradient_norm": spearman(values, column["gradient_norm"]),
        "correlation_length": spearman(values, column["completion_tokens"]),
        "halves_agreement": spearman(column["half_a"], column["half_b"]),
    }


_PARTS = ("gradient_norm", "completion_tokens", "half_a", "half_b")


def _sd(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, or None where it is not defined."""
    from scipy.stats import spearmanr

    if len(a) < 3 or not all(map(math.isfinite, (*a, *b))) or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(spearmanr(a, b).statistic)
