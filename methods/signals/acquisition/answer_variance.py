"""`answer_variance`: how much the target's drawn answers to a question disagree.

1 − Σ p², p the shares of the groups of equal answers: the chance that two answers, drawn with replacement from those
that were given, differ. `form=distinct` counts the groups, (groups − 1) / (answers − 1), near to the reward of
AcquisitionSynthesis (arXiv 2605.13149), which divides the number of clusters by that of answers; it has few values and
rewards a single odd answer as much as an even split in two. Both are high for questions that cannot be answered at
all, and 0 where the target is always wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from methods.signals.acquisition.drawn import GroupedSettings, GroupedSignal
from methods.signals.base import Item

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer


class VarianceSettings(GroupedSettings):
    """The answers that are drawn, the rule of which are the same, and the value made of their groups."""

    form: Literal["pairs", "distinct"] = "pairs"
    """Scores by the chance that two answers differ, or by the number of distinct ones."""


class AnswerVarianceSignal(GroupedSignal[VarianceSettings]):
    """Disagreement of drawn answers, 0 where all are the same; higher is less certain."""

    name = "answer_variance"
    summary = "chance that two of the target's drawn answers to the question differ"
    range = (0.0, 1.0)
    Settings = VarianceSettings

    def measure_answers(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, float]:
        """The form that is set, and how many groups there are."""
        shares = self.shares(answers)
        pairs = 1.0 - sum(share * share for share in shares)
        distinct = (len(shares) - 1) / (len(answers) - 1)
        value = max(0.0, pairs) if self.settings.form == "pairs" else distinct
        return {"value": value, "groups": float(len(shares)), "largest_share": shares[0]}
