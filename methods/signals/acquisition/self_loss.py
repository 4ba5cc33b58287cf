"""`self_loss`: the target's mean loss on its own greedy answer, in nats, where `loss` takes the reference answer.

−mean log p(y_t | x, y_<t) of the greedy answer y: the uncertainty of active synthetic data generation (arXiv
2512.00884), which needs no reference answer. A drawn answer would add the draw's noise, so the answer is greedy.
"""

from __future__ import annotations

from methods.signals.acquisition.greedy import GreedySignal
from methods.signals.target.answering import AnswerSettings


class SelfLossSignal(GreedySignal[AnswerSettings]):
    """Mean cross-entropy of the greedy answer's tokens, in nats; higher is less certain."""

    name = "self_loss"
    summary = "mean loss (nats) of the target's own greedy answer"
    range = (0.0, None)
    reading = "self_loss"
    Settings = AnswerSettings
