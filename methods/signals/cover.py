"""`coreset` and `facility_location`: sets of pairs that lie far from each other, or near to everything.

Both compare embeddings of the run's embedder. `coreset` is greedy k-center (Sener & Savarese, arXiv 1708.00489, Alg.
1), which there reads the last layer of the network in training; it seeks out oddities. `facility_location` is the sum
over what is to be covered of the similarity to the nearest chosen item; it favours what stands for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from harness.config_models import Section
from harness.errors import StageError
from harness.facts import Fact
from methods.signals.base import Item, Preparation, SignalContext, TargetState, Use
from methods.signals.item_vectors import EMPTY, Embeds, ItemVectors, What
from methods.signals.sets import SetItem, SetSignal

if TYPE_CHECKING:
    from evals.coverage import SetFunction
    from methods.signals.item_vectors import Matrix


class CoresetSettings(Section):
    """The part of a pair that is compared."""

    text: What = "question"
    """What of a sample is embedded: its question, or question and answer (`pair`)."""


class FacilityLocationSettings(CoresetSettings):
    """The points that are to be covered."""

    covers: Literal["pool", "seeds"] = "pool"
    """What a chosen set has to lie near to: the pairs it is chosen from, or the run's documents, which learners need,
    since they have no pool."""


T = TypeVar("T", bound=CoresetSettings)


class _Cover(Embeds[T], SetSignal[T]):
    """Set signals by cosines between embeddings."""

    items = frozenset({"sample", "seed"})

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Set up the embedder."""
        self.vectors = ItemVectors(context.embedder, self.settings.text)
        return Preparation(self.vectors.facts())

    def represent(self, items: Sequence[Item]) -> list[SetItem | str]:
        """Unit vectors."""
        return [SetItem(row) if row.any() else EMPTY for row in self.vectors.of(items)]


class CoresetSignal(_Cover[CoresetSettings]):
    """Cosine distance to the nearest chosen item; 2 where nothing is chosen. Higher is better."""

    name = "coreset"
    summary = "chooses sets: farthest from what is chosen already (greedy k-center)"
    range = (0.0, 2.0)
    Settings = CoresetSettings

    def function(self, ids: Sequence[str], rows: Sequence[SetItem], taken: Sequence[SetItem]) -> SetFunction:
        """K-center."""
        from evals.coverage import KCenter

        return KCenter(stack(rows), stack(taken))


class FacilityLocationSignal(_Cover[FacilityLocationSettings]):
    """The gain of an item to the mean, over what is to be covered, of (1 + cos) / 2 to the nearest chosen item."""

    name = "facility_location"
    summary = "chooses sets: near to as much of the pool, or of the documents, as can be (facility location)"
    range = (0.0, 1.0)
    reads_seeds = True
    Settings = FacilityLocationSettings

    @classmethod
    def unfit(cls, settings: FacilityLocationSettings, use: Use) -> str:
        """A pool is there under a selection alone."""
        if use == "reward" and settings.covers == "pool":
            return "has no pool to cover under a driver that trains; set signal.covers=seeds"
        return ""

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Embed the documents where they are to be covered. Raises `StageError` where none has text."""
        prepared = super().prepare(context, target)
        self._ground: Matrix | None = None
        if self.settings.covers == "seeds":
            rows = self.vectors.of(context.seeds)
            self._ground = rows[rows.any(axis=1)]
            if not len(self._ground):
                raise StageError(f"{self.name} covers the run's documents, and none has text; see stage sources")
            covered = Fact("compared_with", len(self._ground), "documents that are to be covered")
            return Preparation([*self.vectors.facts(), covered])
        return prepared

    def function(self, ids: Sequence[str], rows: Sequence[SetItem], taken: Sequence[SetItem]) -> SetFunction:
        """Facility location, as a mean over what is covered."""
        from evals.coverage import FacilityLocation

        return FacilityLocation(stack(rows), stack(taken), self._ground, mean=True)


def stack(rows: Sequence[SetItem]) -> Matrix:
    """Vectors of rows, [N, D]."""
    import numpy as np

    return np.stack([row.data for row in rows]) if rows else np.zeros((0, 1))
