"""The four readings of `fineweb-edu`: each prepares once, and then measures items.

OptimSyn's comparison calls this signal similarity to the FineWeb-Edu distribution and does not say which, so all that
it may mean are here. The classifier has a scale of its own; the others need a file of the wanted kind of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import StageError
from harness.facts import Fact
from harness.training.checks import Check, require
from harness.types import Seed, Usage, stable_hash
from methods.signals.base import Item, SignalContext
from methods.signals.fineweb_edu.dsir import LogRatio
from methods.signals.fineweb_edu.settings import FinewebEduSettings
from methods.signals.item_vectors import ItemVectors
from methods.signals.rated import Panel, declarations, rated_parts
from methods.signals.scales import grade_ranges, to_shares
from methods.signals.similarity import compared_text
from methods.signals.texts import read_texts

if TYPE_CHECKING:
    from methods.signals.item_vectors import Matrix


class Read(Protocol):
    """One reading at work; `checks` and `facts` are what its preparation found."""

    checks: Sequence[Check]
    facts: Sequence[Fact]

    def measure(self, items: Sequence[Item]) -> list[Mapping[str, float]]:
        """Of every item its `value` and the parts beside it; empty where it cannot be measured."""

    def usage(self) -> list[Usage]:
        """The cost since the last call."""


def open_reading(settings: FinewebEduSettings, context: SignalContext) -> Read:
    """The reading that the settings name, ready to measure."""
    kinds: Mapping[str, Any] = {"classifier": Classifier, "cosine": Cosine, "dsir": Dsir, "linear": Linear}
    read: Read = kinds[settings.reading](settings, context)
    return read


def _drawn(items: Sequence[Seed], most: int) -> list[Seed]:
    return sorted(items, key=lambda item: stable_hash(item.id))[:most]


def _raw(settings: FinewebEduSettings, context: SignalContext) -> list[Seed]:
    """The texts as they come. Raises `StageError` where the run's documents are meant and none has text."""
    own = read_texts(settings.raw) if settings.raw else [s for s in context.seeds if compared_text(s).strip()]
    if not own:
        raise StageError(
            "signal fineweb-edu compares with the run's documents, and none has text; name some: signal.raw=FILE"
        )
    return own


class Classifier:
    """The regression's grade as a share of its scale."""

    def __init__(self, settings: FinewebEduSettings, context: SignalContext) -> None:
        raters = declarations(settings)
        self._panel = Panel(raters, context)
        self._low, self._high = grade_ranges(raters)
        self.checks = self._panel.checks()
        require(self.checks, "ratings of signal fineweb-edu")
        self.facts: Sequence[Fact] = self._panel.facts()

    def measure(self, items: Sequence[Item]) -> list[Mapping[str, float]]:
        """Mean over heads, which the published classifier has one of."""
        import numpy as np

        raw = self._panel.rate(items)
        shares = to_shares(raw, self._low, self._high)
        heads = self._panel.heads
        both = zip(raw, shares, np.asarray(np.isfinite(raw).all(axis=1)), strict=True)
        return [{"value": float(s.mean()), **rated_parts(heads, own, s)} if has else {} for own, s, has in both]

    def usage(self) -> list[Usage]:
        """The cost of rating."""
        return self._panel.usage()


class _Embedded:
    """Base of the readings that compare embeddings."""

    checks: Sequence[Check] = ()

    def __init__(self, settings: FinewebEduSettings, context: SignalContext) -> None:
        self._settings = settings
        self._vectors = ItemVectors(context.embedder, "pair")
        self._reference = self._rows(read_texts(settings.reference))
        if not len(self._reference):
            raise StageError(f"signal fineweb-edu: no text of {settings.reference} can be embedded; name another file")
        known = Fact("compared_with", len(self._reference), "reference texts")
        self.facts: Sequence[Fact] = [*self._vectors.facts(), known]

    def _rows(self, items: Sequence[Seed]) -> Matrix:
        rows = self._vectors.of(_drawn(items, self._settings.reference_items))
        return rows[rows.any(axis=1)]

    def measure(self, items: Sequence[Item]) -> list[Mapping[str, float]]:
        """The value of every item with words."""
        import numpy as np

        rows = self._vectors.of(items) if items else self._reference[:0]
        full = np.asarray(rows.any(axis=1))
        values = iter(self._values(rows[full]) if full.any() else ())
        return [{"value": float(next(values))} if has else {} for has in full]

    def _values(self, rows: Matrix) -> Matrix:
        raise NotImplementedError

    def usage(self) -> list[Usage]:
        """The cost of embedding."""
        return self._vectors.usage()


class Cosine(_Embedded):
    """Mean cosine to the nearest reference texts, or the cosine to their centroid."""

    def _values(self, rows: Matrix) -> Matrix:
        import numpy as np

        count = min(self._settings.nearest, len(self._reference))
        if not count:
            mean = self._reference.mean(axis=0)
            to_centroid: Matrix = rows @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
            return to_centroid
        nearest: Matrix = np.sort(rows @ self._reference.T, axis=1)[:, -count:].mean(axis=1)
        return nearest


class Linear(_Embedded):
    """The probability that a text is of the reference and not raw, by logistic regression on embeddings."""

    def __init__(self, settings: FinewebEduSettings, context: SignalContext) -> None:
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score

        super().__init__(settings, context)
        raw = self._rows(_raw(settings, context))
        folds = min(5, len(raw), len(self._reference))
        if folds < 2:
            raise StageError("signal fineweb-edu: reading linear needs two reference texts and two raw ones at least")
        rows = np.concatenate([self._reference, raw])
        side = np.repeat([1, 0], [len(self._reference), len(raw)])
        # Both sides count the same, however many texts each has.
        self._model = LogisticRegression(max_iter=1000, class_weight="balanced")
        auc = float(cross_val_score(self._model, rows, side, cv=folds, scoring="roc_auc").mean())
        self._model.fit(rows, side)
        self.facts = [
            *self.facts,
            Fact("raw_texts", len(raw), "raw texts", "items"),
            Fact("held_out_auc", auc, "AUC between reference and raw texts, cross-validated; 0.5 tells nothing apart"),
        ]

    def _values(self, rows: Matrix) -> Matrix:
        likely: Matrix = self._model.predict_proba(rows)[:, 1]
        return likely


class Dsir:
    """The log importance weight per n-gram."""

    checks: Sequence[Check] = ()

    def __init__(self, settings: FinewebEduSettings, context: SignalContext) -> None:
        reference, raw = read_texts(settings.reference), _raw(settings, context)
        wanted, plain = map(compared_text, reference), map(compared_text, raw)
        self._ratio = LogRatio(wanted, plain, settings.ngrams, settings.buckets)
        self.facts: Sequence[Fact] = [
            Fact("compared_with", len(reference), "reference texts"),
            Fact("raw_texts", len(raw), "raw texts", "items"),
        ]

    def measure(self, items: Sequence[Item]) -> list[Mapping[str, float]]:
        """Without the division by n-grams the longest text would win or lose by its length; it is kept as a part."""
        found = [self._ratio.weight(compared_text(item)) for item in items]
        return [{"value": weight / grams, "log_weight": weight} if grams else {} for weight, grams in found]

    def usage(self) -> list[Usage]:
        """Nothing: no model runs."""
        return []
