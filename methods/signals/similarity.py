"""`val_bm25` and `val_cosine`: how similar an item is to the validation items, by words and by embeddings.

They read the same labelled items as influence and nothing of the target, so they are what influence has to beat: a
signal that is no better than looking like the validation set needs no gradients. Compared are question and answer, on
both sides. Withheld validation items are scored beside the value (`parts["withheld"]`) and never enter it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from pydantic import Field

from harness.config_models import Section
from harness.errors import StageError
from harness.facts import Fact
from harness.types import Sample, Score, Usage, conversation_text
from methods.signals.base import Archive, Guided, Item, ModelUse, Preparation, Signal, SignalContext, TargetState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]


class SimilaritySettings(Section):
    """The way in which similarities to several validation items become one value."""

    aggregate: Literal["mean", "max"] = "mean"
    """What is taken over the validation items: the mean, as in influence, or the nearest one (`max`)."""


class Bm25Settings(SimilaritySettings):
    """The weights of terms and lengths in BM25."""

    k1: float = Field(1.2, ge=0)
    """How soon repeated terms stop counting; 1.2 is Lucene's."""
    b: float = Field(0.75, ge=0, le=1)
    """How much long texts are counted down; 0.75 is Lucene's."""


T = TypeVar("T", bound=SimilaritySettings)


def compared_text(item: Item) -> str:
    """The text of an item that is compared: a sample's question and answer, a seed's document."""
    if isinstance(item, Sample):
        return f"{item.question}\n{item.answer}"
    return item.text or conversation_text(item.messages or ())


class _ValidationSimilarity(Signal[T]):
    """Similarity of every item to every validation item, and its mean or maximum over them; higher is better."""

    items = frozenset({"sample", "seed"})
    reads_validation = True

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Read the validation items: rewarded ones first, then those withheld."""
        rewarded = [conversation_text(v.messages) for v in context.validation if not v.withheld]
        withheld = [conversation_text(v.messages) for v in context.validation if v.withheld]
        if not rewarded:
            raise StageError(f"{self.name} needs validation items; name a validation set with --guide")
        self._rewarded = len(rewarded)
        self._aggregate = self.settings.aggregate
        facts = self._read([*rewarded, *withheld], context)
        parts = {"rewarded": rewarded, "withheld": withheld}
        return Preparation(facts, (), {part: Guided(len(texts)) for part, texts in parts.items() if texts})

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item, `parts` with mean and maximum; an item without text is unscorable."""
        import numpy as np

        texts = {item.id: text for item in items if (text := compared_text(item)).strip()}
        rows = self._similarities(list(texts.values())) if texts else np.zeros((0, self._rewarded))
        found = dict(zip(texts, rows, strict=True))
        return [self._score(item, found.get(item.id)) for item in items]

    def _score(self, item: Item, row: Matrix | None) -> Score:
        import numpy as np

        if row is None or not np.isfinite(row).all():
            return Score.unscorable(item.id, self.name, "no words to compare")
        own, other = row[: self._rewarded], row[self._rewarded :]
        parts = {"mean": float(own.mean()), "max": float(own.max())}
        if len(other):
            parts["withheld"] = float(other.mean() if self._aggregate == "mean" else other.max())
        return Score(
            item_id=item.id, signal=self.name, value=parts[self._aggregate], status="ok", reason="", parts=parts
        )

    @abstractmethod
    def _read(self, validation: Sequence[str], context: SignalContext) -> list[Fact]:
        """Keep the validation items' texts, of which the first `_rewarded` enter the value; returns what was seen."""

    @abstractmethod
    def _similarities(self, texts: Sequence[str]) -> Matrix:
        """[texts, validation items]; a row that is not finite could not be measured."""


class ValBm25Signal(_ValidationSimilarity[Bm25Settings]):
    """BM25 of the item as a document for each validation item as a query (`methods.signals.bm25`)."""

    name = "val_bm25"
    summary = "control: word similarity (BM25) to the validation items"
    range = (0.0, None)
    Settings = Bm25Settings

    def _read(self, validation: Sequence[str], context: SignalContext) -> list[Fact]:
        from methods.signals.bm25 import Bm25

        self._bm25 = Bm25(validation, self.settings.k1, self.settings.b, collection=self._rewarded)
        return []

    def _similarities(self, texts: Sequence[str]) -> Matrix:
        return self._bm25.scores(texts)


class ValCosineSignal(_ValidationSimilarity[SimilaritySettings]):
    """Cosine between the item's embedding and each validation item's, by the embedder of `models.embedder`."""

    name = "val_cosine"
    summary = "control: cosine between the embeddings of item and validation items"
    range = (-1.0, 1.0)
    Settings = SimilaritySettings

    @classmethod
    def needs(cls, settings: SimilaritySettings) -> frozenset[str]:
        """Always the embedder, which turns texts into vectors."""
        return frozenset({"embedder"})

    @classmethod
    def uses(cls, settings: SimilaritySettings) -> tuple[ModelUse, ...]:
        """An item is embedded once; the validation items were before."""
        return (ModelUse("embedder"),)

    def _read(self, validation: Sequence[str], context: SignalContext) -> list[Fact]:
        import numpy as np

        from harness.models.embedder import open_embedder

        self._embedder = open_embedder(context.embedder)
        self._validation = self._embedder.embed(validation)
        coherence = float(np.linalg.norm(self._validation[: self._rewarded].mean(axis=0)))
        return [
            Fact("embedder", self._embedder.name, "embedder"),
            Fact("embedder_identity", self._embedder.identity, "identity of its vectors"),
            Fact("dimension", int(self._validation.shape[1]), "numbers in a vector"),
            Fact("validation_truncated", self._embedder.truncated, "validation items embedded in part", "items"),
            # 1 where all validation items point the same way.
            Fact("validation_coherence", coherence, "length of the mean unit validation vector"),
        ]

    def _similarities(self, texts: Sequence[str]) -> Matrix:
        import numpy as np

        rows = self._embedder.embed(texts)
        cosines: Matrix = (rows @ self._validation.T).astype(np.float64)
        cosines[~rows.any(axis=1)] = np.nan
        return cosines

    def usage(self) -> list[Usage]:
        """The cost of embedding since the last call."""
        return self._embedder.usage()
