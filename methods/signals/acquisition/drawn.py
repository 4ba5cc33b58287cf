"""Base of `answer_variance`, `semantic_entropy` and `learnability`: what drawn answers to a question have in common.

The target answers every question `samples` times at a temperature. Of an answer counts what stands behind the last
`marker` (all of it where there is none), in compatibility form, without case, punctuation at its ends and repeated
white space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from harness.facts import Fact
from harness.synthesis.agreement import clusters, value_of
from harness.types import Usage
from methods.signals.base import ModelUse
from methods.signals.target.answering import AnswerSettings, AnswerSignal

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer


class DrawnSettings(AnswerSettings):
    """The answers that are drawn, and what of them counts."""

    samples: int = Field(16, ge=2)
    """How many answers are drawn of a question."""
    temperature: float = Field(0.7, gt=0)
    """The temperature that answers are drawn at."""
    marker: str = ""
    """What an answer's value stands behind, as in 'ANSWER:'; the whole answer is its value where it is not found."""


class GroupedSettings(DrawnSettings):
    """The answers that are drawn, and the rule of which are the same."""

    group: Literal["exact", "embedding"] = "exact"
    """Takes answers for the same where their values are equal, or where their embeddings fall into one cluster (average
    linkage, cosine distance below 0.35)."""


D = TypeVar("D", bound=DrawnSettings)
G = TypeVar("G", bound=GroupedSettings)


class DrawnSignal(AnswerSignal[D]):
    """A signal of several drawn answers."""

    @classmethod
    def temperature(cls, settings: D) -> float:
        """The setting."""
        return settings.temperature

    @classmethod
    def count(cls, settings: D) -> int:
        """The setting."""
        return settings.samples

    def values(self, answers: Sequence[Answer]) -> list[str]:
        """The value that each answer gives, normalised."""
        texts = [self.tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
        return [value_of(text, self.settings.marker) for text in texts]


class GroupedSignal(DrawnSignal[G]):
    """A signal of how drawn answers fall into groups of the same meaning."""

    @classmethod
    def needs(cls, settings: G) -> frozenset[str]:
        """The target's completions, and an embedder where it groups them."""
        return super().needs(settings) | ({"embedder"} if settings.group == "embedding" else set())

    @classmethod
    def uses(cls, settings: G) -> tuple[ModelUse, ...]:
        """The target, and the embedder where it groups."""
        return (*super().uses(settings), *([ModelUse("embedder")] if settings.group == "embedding" else []))

    def ready(self) -> list[Fact]:
        """The facts that decide answers and groups."""
        facts = [*super().ready(), Fact("group", self.settings.group, "how equal answers are told")]
        self._embedder: Any = None
        if self.settings.group == "embedding":
            from harness.models.embedder import open_embedder

            self._embedder = open_embedder(self.context.embedder)
            facts.append(Fact("embedder_identity", self._embedder.identity, "identity of the embedder's vectors"))
        return facts

    def shares(self, answers: Sequence[Answer]) -> list[float]:
        """The share of the answers in each group, the largest first; they add up to 1."""
        values = self.values(answers)
        groups = Counter(values if self._embedder is None else clusters(self._embedder.embed(values)))
        return [size / len(values) for _, size in groups.most_common()]

    def usage(self) -> list[Usage]:
        """The target's, and the embedder's."""
        return [*super().usage(), *(self._embedder.usage() if self._embedder is not None else [])]
