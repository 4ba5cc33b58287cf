"""The `fineweb-edu` signal, in whichever of its readings the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.facts import Fact
from harness.raters.declaration import RaterDeclaration
from harness.types import Score, Usage
from methods.signals.base import Archive, Item, ModelUse, Preparation, Signal, SignalContext, TargetState, Use
from methods.signals.diagnostics import follows, score_facts
from methods.signals.fineweb_edu.readings import open_reading
from methods.signals.fineweb_edu.settings import FinewebEduSettings
from methods.signals.rated import declarations, spread_facts
from methods.signals.scales import ungraded
from methods.signals.similarity import compared_text
from methods.signals.texts import read_texts


class FinewebEduSignal(Signal[FinewebEduSettings]):
    """Educational value, or likeness to a reference of it, by `reading`; higher is better."""

    name = "fineweb-edu"
    summary = "educational value by FineWeb-Edu's classifier, or likeness to texts of a file by embeddings or n-grams"
    items = frozenset({"sample", "seed"})
    reads_seeds = True
    Settings = FinewebEduSettings

    @classmethod
    def needs(cls, settings: FinewebEduSettings) -> frozenset[str]:
        """What the reading needs: the rater, the embedder, or nothing."""
        need = {"classifier": "rater", "cosine": "embedder", "linear": "embedder"}.get(settings.reading)
        return frozenset({need} if need else ())

    @classmethod
    def raters(cls, settings: FinewebEduSettings) -> tuple[RaterDeclaration, ...]:
        """The classifier, where it is what is read."""
        return declarations(settings) if settings.reading == "classifier" else ()

    @classmethod
    def uses(cls, settings: FinewebEduSettings) -> tuple[ModelUse, ...]:
        """One reading of an item by rater or embedder."""
        if settings.reading in ("cosine", "linear"):
            return (ModelUse("embedder"),)
        return tuple(ModelUse("rater", parameters=rater.parameters) for rater in cls.raters(settings))

    @classmethod
    def files(cls, settings: FinewebEduSettings) -> tuple[str, ...]:
        """Reference and raw texts, where the reading reads them."""
        named = {"classifier": (), "cosine": ("reference",)}.get(settings.reading, ("reference", "raw"))
        return tuple(path for path in (getattr(settings, name) for name in named) if path)

    @classmethod
    def unfit(cls, settings: FinewebEduSettings, use: Use) -> str:
        """A reading without its reference, and a rater without grades. Raises `InputError` for a file without texts."""
        if settings.reading != "classifier" and not settings.reference:
            return (
                f"compares with a file of texts under reading {settings.reading}; name one with signal.reference=FILE, "
                "such as a sample of FineWeb-Edu, one text a row"
            )
        for path in cls.files(settings):
            read_texts(path)
        return ungraded(cls.raters(settings))

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Load what the reading needs."""
        self._reading = open_reading(self.settings, context)
        return Preparation(
            [Fact("reading", self.settings.reading, "reading"), *self._reading.facts], self._reading.checks
        )

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; one without words is unscorable."""
        return [self._score(item, found) for item, found in zip(items, self._reading.measure(items), strict=True)]

    def _score(self, item: Item, found: Mapping[str, float]) -> Score:
        if not found:
            return Score.unscorable(item.id, self.name, "no words to read")
        parts = {name: part for name, part in found.items() if name != "value"}
        parts["words"] = float(len(compared_text(item).split()))
        return Score(item.id, self.name, found["value"], parts=parts)

    def usage(self) -> list[Usage]:
        """The cost of scoring since the last call."""
        return self._reading.usage()

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As `Signal.diagnose`, with a rater's spread, and whether scores follow the text's length."""
        length = follows(scores, "words", "correlation_length", "with the number of words")
        return [*score_facts(scores), *spread_facts(scores, 0.05), length]
