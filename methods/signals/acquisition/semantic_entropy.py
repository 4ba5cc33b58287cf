"""`semantic_entropy`: the entropy of what the target's drawn answers mean, whatever their words.

−Σ p ln p over groups of answers that mean the same, p their shares among the drawn answers: the discrete form of
semantic entropy (Kuhn et al. 2023, arXiv 2302.09664, weigh answers by their likelihood, which favours short ones). It
is between 0 and the logarithm of the number of answers, and estimates the entropy of the distribution from below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from methods.signals.acquisition.drawn import GroupedSettings, GroupedSignal
from methods.signals.base import Item

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer


class SemanticEntropySignal(GroupedSignal[GroupedSettings]):
    """Entropy in nats over the groups of drawn answers; higher is less certain."""

    name = "semantic_entropy"
    summary = "entropy (nats) over the meanings of the target's drawn answers"
    range = (0.0, None)
    Settings = GroupedSettings

    def measure_answers(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, float]:
        """The entropy, and how many groups there are."""
        shares = self.shares(answers)
        entropy = max(0.0, -sum(share * math.log(share) for share in shares))
        return {"value": entropy, "groups": float(len(shares)), "largest_share": shares[0]}
