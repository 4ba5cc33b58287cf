"""`least_confidence`: 1 − the geometric mean of the probabilities of the target's greedy answer.

1 − exp(mean log p(y_t | x, y_<t)), in [0, 1) (Lewis & Gale 1994; for sequences Culotta & McCallum 2005, whose product
is taken per token here, since it would fall with the answer's length).
"""

from __future__ import annotations

from methods.signals.acquisition.greedy import GreedySignal
from methods.signals.target.answering import AnswerSettings


class LeastConfidenceSignal(GreedySignal[AnswerSettings]):
    """1 − geometric mean of the greedy answer's token probabilities; higher is less certain."""

    name = "least_confidence"
    summary = "1 - geometric mean of the probabilities of the target's own greedy answer"
    range = (0.0, 1.0)
    reading = "least_confidence"
    Settings = AnswerSettings
