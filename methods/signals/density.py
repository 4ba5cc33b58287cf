"""The `density` signal: the target's loss on the answer, weighed by how usual the question is.

Information density (Settles & Craven 2008, Eq. 14): uncertainty times (mean similarity to the pool)^β, against the
outliers that uncertainty alone prefers. The base is signal `loss`. The pool is the run's documents, which candidates
are written from: so a score depends on neither the batch nor the shard that an item is in. A mean cosine below 0 counts
as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from harness.errors import StageError
from harness.facts import Fact
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, ModelUse
from methods.signals.item_vectors import EMPTY, ItemVectors, What
from methods.signals.loss import LossSettings, LossSignal


class DensitySettings(LossSettings):
    """The target whose loss is taken, and the weight of density."""

    beta: float = Field(1.0, ge=0)
    """Exponent of the mean similarity; 0 leaves the loss alone."""
    text: What = "question"
    """What of a sample is compared with the documents: its question, or question and answer (`pair`)."""


class DensitySignal(LossSignal):
    """loss · max(0, mean cosine to the documents)^β; higher is better."""

    name = "density"
    summary = "loss of the answer times the mean cosine of the question to the run's documents (information density)"
    reads_seeds = True
    items = frozenset({"sample"})
    Settings = DensitySettings
    settings: DensitySettings

    @classmethod
    def needs(cls, settings: LossSettings) -> frozenset[str]:
        """The target, and what turns texts into vectors."""
        return super().needs(settings) | {"embedder"}

    @classmethod
    def uses(cls, settings: LossSettings) -> tuple[ModelUse, ...]:
        """One forward pass of the target, and one embedding."""
        return (*super().uses(settings), ModelUse("embedder"))

    def ready(self) -> list[Fact]:
        """The documents' mean vector, whose product with an item's is the mean of its cosines."""
        self._vectors = ItemVectors(self.context.embedder, self.settings.text)
        rows = self._vectors.of(self.context.seeds)
        rows = rows[rows.any(axis=1)]
        if not len(rows):
            raise StageError(f"{self.name} compares with the run's documents, and none has text; see stage sources")
        self._mean = rows.mean(axis=0)
        compared = Fact("compared_with", len(rows), "documents that items are compared with")
        return [*super().ready(), *self._vectors.facts(), compared]

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; `parts` has both factors."""
        samples = [item for item in items if isinstance(item, Sample)]
        rows = dict(zip((s.id for s in samples), self._vectors.of(samples), strict=True)) if samples else {}
        scores = []
        for score in super().score(items, archive):
            row = rows.get(score.item_id)
            if score.value is None or row is None:
                scores.append(score)
            elif not row.any():
                scores.append(replace(score, value=None, status="unscorable", reason=EMPTY, parts={}))
            else:
                density = max(0.0, float(self._mean @ row))
                parts = {**score.parts, "loss": score.value, "density": density}
                scores.append(replace(score, value=score.value * density**self.settings.beta, parts=parts))
        return scores

    def usage(self) -> list[Usage]:
        """The cost of scoring since the last call, by the target and by the embedder."""
        return [*super().usage(), *self._vectors.usage()]
