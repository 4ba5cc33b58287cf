"""`learnability`: questions that the target gets right at times.

p(1 − p), p the share of the target's drawn answers whose value equals that of the reference answer (Foster &
Foerster 2025, arXiv 2502.12272): largest, 1/4, at half, 0 for what is always right and for what never is, so that wrong
references, which are never met, score nothing. It needs answers that can be compared word by word: short ones, or a
`marker` before the value, in the reference too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.synthesis.agreement import value_of
from harness.types import Sample
from methods.signals.acquisition.drawn import DrawnSettings, DrawnSignal
from methods.signals.base import Item

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer


def reference(item: Item) -> str:
    """The answer that the item holds for right; empty where it has none."""
    if isinstance(item, Sample):
        return item.answer
    turns = item.messages or ()
    return turns[-1].content if turns and turns[-1].role == "assistant" else ""


class LearnabilitySignal(DrawnSignal[DrawnSettings]):
    """p(1 − p) of the share p of drawn answers that equal the reference; higher is better."""

    name = "learnability"
    summary = "p(1 - p), p the share of the target's drawn answers that equal the pair's answer"
    range = (0.0, 0.25)
    Settings = DrawnSettings

    def fault(self, item: Item) -> str:
        """Also that there is no answer to compare with."""
        return super().fault(item) or (
            "" if value_of(reference(item), self.settings.marker) else "it has no answer to compare with"
        )

    def measure_answers(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, float]:
        """p(1 − p), and p as `right`."""
        wanted = value_of(reference(item), self.settings.marker)
        values = self.values(answers)
        right = values.count(wanted) / len(values)
        return {"value": right * (1.0 - right), "right": right}
