"""`confidence`: how little the target's first choice of a token leads the second, over its own answer.

1 − mean over the tokens of p(first) − p(second) of the greedy answer: 0 for a target that is certain, near 1 for one
that is not (margin sampling, Scheffer et al. 2001; used as a reward by AcquisitionSynthesis, arXiv 2605.13149). The
released code takes 1 / margin, cut at 2, of an answer that is drawn at temperature 0.7 from the bare question, and
subtracts the best other token's probability from the drawn one's. That is negative where an unlikely token was drawn,
and a negative mean is cut to 0: the most uncertain answers get the lowest score. `upstream=true` does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from methods.signals.acquisition.greedy import GreedySignal
from methods.signals.base import Item
from methods.signals.target.answering import AnswerSettings

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer


class ConfidenceSettings(AnswerSettings):
    """The target that answers, its sampling, and whether the released code's formula is taken."""

    upstream: bool = False
    """Scores as the released code: 1 / margin, cut at 2, of a bare question's answer drawn at temperature 0.7; it gives
    the most uncertain answers 0, since a drawn token can have a negative margin."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: Any) -> Any:
        """The released code asks without a template, unless one is set."""
        if isinstance(given, dict) and given.get("upstream") is True:
            return {"template": "none", **given}
        return given


class ConfidenceSignal(GreedySignal[ConfidenceSettings]):
    """1 − mean margin of the two likeliest tokens of the target's greedy answer; higher is less certain."""

    name = "confidence"
    summary = "1 - margin between the two likeliest tokens, mean over the target's own greedy answer"
    range = (0.0, 2.0)
    reading = "one_minus_margin"
    Settings = ConfidenceSettings

    @classmethod
    def temperature(cls, settings: ConfidenceSettings) -> float:
        """Greedy, but for the released code's formula."""
        return 0.7 if settings.upstream else 0.0

    def measure_answers(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, float]:
        """1 − margin, at most 1; of the released code's formula up to 2."""
        found = super().measure_answers(item, answers)
        if not self.settings.upstream:
            return found
        lead = float(answers[0].lead.mean())
        return {**found, "value": 0.0 if lead < 0 else 2.0 if lead < 0.5 else 1.0 / lead}
