"""`proximity` and `novelty`: how near an item lies to the run's documents, and how far from all that is known.

AcquisitionSynthesis' code rewards the largest cosine between the question and the centroids of its seed questions
(`proximity`), and, at the time of the paper, 1 minus the same number (`diversity`). Here the seeds are the run's
documents. `novelty` departs from that code in two ways, since a reward that is a linear function of another is not a
second signal: it compares with each document rather than with centroids, and with what was accepted before;
`upstream=true` takes both back. The nearest *validation* item is `val_cosine` with `aggregate=max`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from harness.config_models import Section
from harness.errors import StageError
from harness.facts import Fact
from harness.types import Sample, Score
from methods.signals.base import Archive, Item, Preparation, SignalContext, TargetState
from methods.signals.item_vectors import EMPTY, Embeds, ItemVectors, What

if TYPE_CHECKING:
    from methods.signals.item_vectors import Matrix


class NearnessSettings(Section):
    """The two sides of the comparison."""

    text: What = "question"
    """What of a sample is embedded: its question, as published, or question and answer (`pair`)."""
    centroids: int = Field(100, ge=1)
    """Clusters of the documents, by k-means; with fewer documents each is its own."""


class NoveltySettings(NearnessSettings):
    """As for proximity, and what counts as known."""

    upstream: bool = False
    """As AcquisitionSynthesis' first code: 1 - proximity, blind to what was accepted before."""


NEARNESS = "nearness to the run's documents"
"""What the one signal rewards and the other punishes."""

T = TypeVar("T", bound=NearnessSettings)


def centroids(rows: Matrix, count: int, seed: int) -> Matrix:
    """Means of `count` clusters of unit rows [N, D], made unit again: MiniBatchKMeans, batches of 1,028, 5 starts."""
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans

    distinct = np.unique(rows, axis=0)
    if len(distinct) <= count:
        return distinct
    means = MiniBatchKMeans(count, batch_size=1028, n_init=5, random_state=seed).fit(rows).cluster_centers_
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    unit: Matrix = means / np.where(norms > 0, norms, 1.0)
    return unit


class _Nearness(Embeds[T]):
    """Signals by the largest cosine between an item and something known."""

    reads_seeds = True

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Embed the documents. Raises `StageError` where none has text."""
        self.vectors = ItemVectors(context.embedder, self.settings.text)
        rows = self.vectors.of(context.seeds)
        rows = rows[rows.any(axis=1)]
        if not len(rows):
            raise StageError(f"{self.name} compares with the run's documents, and none has text; see stage sources")
        self._known = self._reference(rows, context.seed)
        found = Fact("compared_with", len(self._known), "documents or centroids that items are compared with")
        return Preparation([*self.vectors.facts(), found])

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; what has no question is unscorable."""
        samples = [item for item in items if isinstance(item, Sample)]
        rows = dict(zip((s.id for s in samples), self.vectors.of(samples), strict=True)) if samples else {}
        known = self._compared(archive)
        return [self._score(item, rows.get(item.id), known) for item in items]

    def _score(self, item: Item, row: Matrix | None, known: Matrix) -> Score:
        if row is None or not row.any():
            reason = EMPTY if isinstance(item, Sample) else "only samples can be scored"
            return Score.unscorable(item.id, self.name, reason)
        return Score(item.id, self.name, self._value(float((known @ row).max().clip(-1.0, 1.0))))

    @abstractmethod
    def _reference(self, rows: Matrix, seed: int) -> Matrix:
        """The reference that items are compared with, of the documents' unit rows."""

    @abstractmethod
    def _value(self, nearest: float) -> float:
        """The score, of the largest cosine."""

    def _compared(self, archive: Archive) -> Matrix:
        return self._known


class ProximitySignal(_Nearness[NearnessSettings]):
    """max_c cos(e(item), μ_c) over centroids μ of the documents; higher is better."""

    name = "proximity"
    axis = (NEARNESS, 1)
    summary = "largest cosine between the question and the centroids of the run's documents (AcquisitionSynthesis)"
    range = (-1.0, 1.0)
    Settings = NearnessSettings

    def _reference(self, rows: Matrix, seed: int) -> Matrix:
        return centroids(rows, self.settings.centroids, seed)

    def _value(self, nearest: float) -> float:
        return nearest


class NoveltySignal(_Nearness[NoveltySettings]):
    """1 − max cos(e(item), ·) over the documents and what was accepted before; higher is better."""

    name = "novelty"
    axis = (NEARNESS, -1)
    summary = "1 minus the largest cosine to the run's documents and to what was accepted before"
    range = (0.0, 2.0)
    stateful = True
    Settings = NoveltySettings

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """As the base, and begin with nothing accepted."""
        self._accepted: dict[str, Matrix] = {}
        return super().prepare(context, target)

    def _reference(self, rows: Matrix, seed: int) -> Matrix:
        return centroids(rows, self.settings.centroids, seed) if self.settings.upstream else rows

    def _compared(self, archive: Archive) -> Matrix:
        import numpy as np

        if self.settings.upstream or not archive.samples:
            return self._known
        if new := [s for s in archive.samples if s.id not in self._accepted]:
            self._accepted |= zip((s.id for s in new), self.vectors.of(new), strict=True)
        return np.concatenate([self._known, np.stack([self._accepted[s.id] for s in archive.samples])])

    def _value(self, nearest: float) -> float:
        return 1.0 - nearest
