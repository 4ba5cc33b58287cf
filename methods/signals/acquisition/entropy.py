"""`entropy`: mean entropy of the target's next-token distribution over its own greedy answer, in nats.

Mean over the answer's tokens of −Σ p log p over the whole vocabulary, between 0 and the logarithm of its size (token
entropy, Settles & Craven 2008).
"""

from __future__ import annotations

from methods.signals.acquisition.greedy import GreedySignal
from methods.signals.target.answering import AnswerSettings


class EntropySignal(GreedySignal[AnswerSettings]):
    """Mean token entropy of the greedy answer, in nats; higher is less certain."""

    name = "entropy"
    summary = "mean entropy of the next token (nats) over the target's own greedy answer"
    range = (0.0, None)
    reading = "entropy"
    Settings = AnswerSettings
