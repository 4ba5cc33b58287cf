"""Base of `confidence`, `least_confidence`, `entropy` and `self_loss`: four readings of one greedy answer.

Every score keeps all four in its parts, since they cost one decoding together. All are means over the answer's tokens,
the one that ends it included, and all are higher where the target is less certain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from methods.signals.base import Item
from methods.signals.target.answering import A, AnswerSignal

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer


class GreedySignal(AnswerSignal[A]):
    """One reading of the target's greedy answer: that which is called `reading`."""

    reading: ClassVar[str] = ""

    def measure_answers(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, float]:
        """The reading as `value`, and all readings by name."""
        (own,) = answers
        loss = -float(own.log_p.mean())
        found = {
            "one_minus_margin": 1.0 - float(own.margin.mean()),
            "least_confidence": 1.0 - math.exp(-loss),
            "entropy": float(own.entropy.mean()),
            "self_loss": loss,
        }
        return {"value": found[self.reading], **found}
