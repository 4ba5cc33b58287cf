"""The part of an item that signals see, whichever kind it is: a sample, or a labelled seed."""

from __future__ import annotations

from harness.synthesis.route import reference_of
from harness.types import Message, Sample, Seed
from methods.signals.base import Item

UNLABELLED = "no reference answer"
"""Why a seed that is a document, or ends with a question, is unscorable where an answer is read."""


def answered(item: Item) -> tuple[Message, ...]:
    """The conversation up to its last answer: a sample's, or that of a labelled seed; none without a reference."""
    if isinstance(item, Sample):
        return item.messages
    turns = tuple(item.messages or ())
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    return turns if reference_of(item) else ()


def unlabelled(seed: Seed) -> str:
    """`UNLABELLED` for such a seed; else empty."""
    return "" if reference_of(seed) else UNLABELLED
