"""Unit vectors of items by the run's embedder, for signals that compare items with documents or with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from harness.config import EmbedderConfig
from harness.config_models import Section
from harness.facts import Fact
from harness.types import Sample, Usage
from methods.signals.base import Item, ModelUse, Signal
from methods.signals.similarity import compared_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]

S = TypeVar("S", bound=Section)

What: TypeAlias = Literal["question", "pair"]
"""What of a sample is embedded; of a document it is the text."""

EMPTY = "no words to compare"
"""Why an item without text is unscorable."""


class Embeds(Signal[S]):
    """Base of the signals that need nothing but an embedder; `prepare` sets `vectors`."""

    vectors: ItemVectors

    @classmethod
    def needs(cls, settings: S) -> frozenset[str]:
        """Always the embedder, which turns texts into vectors."""
        return frozenset({"embedder"})

    @classmethod
    def uses(cls, settings: S) -> tuple[ModelUse, ...]:
        """An item is embedded once."""
        return (ModelUse("embedder"),)

    def usage(self) -> list[Usage]:
        """The cost of embedding since the last call."""
        return self.vectors.usage()


class ItemVectors:
    """The embedder behind a signal; `what` says which part of a sample is embedded."""

    def __init__(self, config: EmbedderConfig, what: What) -> None:
        from harness.models.embedder import open_embedder

        self._embedder, self._what = open_embedder(config), what

    def of(self, items: Sequence[Item]) -> Matrix:
        """Rows [items, dimension] of length 1, float64; zero where there is no text."""
        import numpy as np

        texts = [
            item.question if self._what == "question" and isinstance(item, Sample) else compared_text(item)
            for item in items
        ]
        return self._embedder.embed(texts).astype(np.float64)

    def facts(self) -> list[Fact]:
        """The embedder, and the number of texts that it has cut so far."""
        return [
            Fact("embedder", self._embedder.name, "embedder"),
            Fact("embedder_identity", self._embedder.identity, "identity of its vectors"),
            Fact("reference_truncated", self._embedder.truncated, "documents embedded in part", "items"),
        ]

    def usage(self) -> list[Usage]:
        """The cost of embedding since the last call."""
        return self._embedder.usage()
