"""What is reported with every scoring, because a score alone does not say whether it can be believed.

Influence that follows the gradient's norm or the sample's length ranks by something cheaper; halves of the validation
set that disagree say that the set is too small or too mixed to be read; and where most of the score is the momentum
that all candidates share, the spread is small against the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.ranks import spearman
from harness.types import Score


def diagnose(scores: Sequence[Score]) -> Mapping[str, float | None]:
    """Figures of one scoring, None where there is nothing to take them of.

    `truncated` counts items that were scored on what the target's length left of their answer.
    Correlations are Spearman's; fewer than 3 items, a constant, or a score without the part leave none.
    """
    known = [s for s in scores if s.value is not None]
    values = [s.value for s in known if s.value is not None]
    column = {name: [s.parts.get(name, math.nan) for s in known] for name in _PARTS}
    norms = [x for x in column["gradient_norm"] if math.isfinite(x)]
    return {
        "scored": float(len(known)),
        "unscorable": float(len(scores) - len(known)),
        "truncated": float(sum(x > 0 for x in column["truncated_tokens"])),
        "mean": sum(values) / len(values) if values else None,
        "sd": _sd(values),
        "gradient_norm": sum(norms) / len(norms) if norms else None,
        "correlation_gradient_norm": spearman(values, column["gradient_norm"]),
        "correlation_length": spearman(values, column["completion_tokens"]),
        "halves_agreement": spearman(column["half_a"], column["half_b"]),
    }


_PARTS = ("gradient_norm", "completion_tokens", "truncated_tokens", "half_a", "half_b")


def _sd(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
