"""What signals that ask quality raters share: the raters at work on items, and what is said of their scores.

A rater has never seen the target, so its score of a pair is the same in every round and for every target. It was
trained on web pages, and question and answer are not one: it may give all pairs nearly the same number, which would
rank them by noise. So a head's spread is reported, and one that hardly tells items apart is said to be such.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from harness.config_models import Section
from harness.facts import Fact
from harness.raters.catalogue import find_rater
from harness.raters.declaration import RaterDeclaration
from harness.training.checks import Check, require
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, ModelUse, Preparation, Signal, SignalContext, TargetState
from methods.signals.diagnostics import column, follows, score_facts
from methods.signals.items import answered
from methods.signals.similarity import compared_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

RAW = "raw_"
"""What a part's name begins with where it is a rater's own number, before any scale."""

NOTHING = "no text that the rater can read"
"""Why an item is unscorable: it has none, or one that is too long for a rater that reads only whole texts."""


class RaterSettings(Section):
    """The raters that are asked."""

    rater: tuple[str, ...] = ()
    """Raters by registered name (`harness rater list`), or folders of trained ones."""


T = TypeVar("T", bound=RaterSettings)


def declarations(settings: RaterSettings) -> tuple[RaterDeclaration, ...]:
    """The raters of settings; a folder without a declaration is a copy of the default's checkpoint in its place."""
    own = type(settings)().rater
    found = []
    for place, name in enumerate(settings.rater):
        like = find_rater(own[place]) if len(settings.rater) == len(own) else None
        found.append(find_rater(name, like))
    return tuple(found)


def heads_of(raters: Sequence[RaterDeclaration]) -> list[str]:
    """The heads of all raters in order; those of one name are told apart by their rater's."""
    plain = [(rater, head) for rater in raters for head in rater.heads]
    names = [head for _, head in plain]
    return [head if names.count(head) == 1 else f"{rater.name}.{head}" for rater, head in plain]


def rated_text(rater: RaterDeclaration, item: Item) -> str:
    """The text of an item as the rater reads it; empty where there is nothing to rate."""
    messages = answered(item)
    question = next((m.content for m in reversed(messages) if m.role == "user"), "")
    answer = next((m.content for m in reversed(messages) if m.role == "assistant"), "")
    if question.strip() or answer.strip():
        return rater.of_pair(question, answer)
    text = "" if isinstance(item, Sample) else compared_text(item)
    return rater.of_document(text) if text.strip() else ""


class Panel:
    """Raters at work on items, side by side; `heads` names the columns of what they say."""

    def __init__(self, raters: Sequence[RaterDeclaration], context: SignalContext) -> None:
        from harness.raters.model import Rater

        self.heads = heads_of(raters)
        tokens, size = context.scoring.batch_tokens, context.batch_size
        self._raters = [Rater(rater, batch_tokens=tokens, batch_size=size) for rater in raters]

    def checks(self) -> list[Check]:
        """The check of every rater that a batch changes no rating."""
        return [rater.check_padding() for rater in self._raters]

    def rate(self, items: Sequence[Item]) -> Matrix:
        """Ratings [items, heads], float64; NaN where there is nothing that a rater can read."""
        import numpy as np

        columns = []
        for rater in self._raters:
            texts = {item.id: text for item in items if (text := rated_text(rater.declaration, item))}
            rows = rater.rate(list(texts.values()))
            out = np.full((len(items), len(rater.declaration.heads)), np.nan)
            at = {key: row for row, key in enumerate(texts)}
            for number, item in enumerate(items):
                if item.id in at:
                    out[number] = rows[at[item.id]]
            columns.append(out)
        return np.concatenate(columns, axis=1)

    def facts(self) -> list[Fact]:
        """The raters, and whether what they say is kept."""
        own = [rater.declaration for rater in self._raters]
        faults = [rater.kept.fault for rater in self._raters if rater.kept and rater.kept.fault]
        return [
            Fact("raters", [d.name for d in own], "raters"),
            Fact("checkpoints", [d.checkpoint for d in own], "checkpoints"),
            Fact("commits", [rater.commit for rater in self._raters], "commits of hub checkpoints"),
            Fact("rater_identity", [rater.identity for rater in self._raters], "identity of weights and declaration"),
            Fact("rater_dtype", [d.dtype for d in own], "type that they compute in"),
            Fact("heads", self.heads, "criteria"),
            Fact("ratings_not_kept", faults[0] if faults else None, "reason why ratings are not kept"),
        ]

    def usage(self) -> list[Usage]:
        """The cost of rating since the last call."""
        return [spent for rater in self._raters for spent in rater.usage()]


class Rated(Signal[T]):
    """A signal whose score is a weighted mean of what raters say, on a scale of the signal's own.

    `constant_below` is the standard deviation, on that scale, under which a head is said to be near-constant.
    """

    items = frozenset({"sample", "seed"})
    constant_below: ClassVar[float] = 0.05

    panel: Panel

    @classmethod
    def needs(cls, settings: T) -> frozenset[str]:
        """The raters."""
        return frozenset({"rater"})

    @classmethod
    def raters(cls, settings: T) -> tuple[RaterDeclaration, ...]:
        """Those that its settings name."""
        return declarations(settings)

    @classmethod
    def uses(cls, settings: T) -> tuple[ModelUse, ...]:
        """Every rater reads an item once."""
        return tuple(ModelUse("rater", parameters=rater.parameters) for rater in cls.raters(settings))

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Load the raters, check that padding changes nothing, and find the scale."""
        self.panel = Panel(self.raters(self.settings), context)
        checks = self.panel.checks()
        require(checks, f"ratings of signal {self.name}")
        self._weights = self.weights(self.panel.heads)
        scale = self.scale(context)
        return Preparation([*self.panel.facts(), *scale], checks)

    @abstractmethod
    def scale(self, context: SignalContext) -> list[Fact]:
        """Find what `scaled` needs; returns what was found."""

    @abstractmethod
    def scaled(self, raw: Matrix) -> Matrix:
        """Ratings [items, heads] on the signal's scale."""

    @abstractmethod
    def weights(self, heads: Sequence[str]) -> Sequence[float]:
        """The weight of every head in the score; they sum to 1."""

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; `parts` has what every head says, on the signal's scale and as the rater gives it."""
        raw = self.panel.rate(items)
        scaled = self.scaled(raw)
        return [self._score(item, raw[row], scaled[row]) for row, item in enumerate(items)]

    def _score(self, item: Item, raw: Any, scaled: Any) -> Score:
        import numpy as np

        if not np.isfinite(raw).all():
            return Score.unscorable(item.id, self.name, NOTHING)
        parts = rated_parts(self.panel.heads, raw, scaled)
        parts |= {**self.beside(raw), "words": float(len(compared_text(item).split()))}
        return Score(item.id, self.name, float(np.dot(self._weights, scaled)), parts=parts)

    def beside(self, raw: Any) -> Mapping[str, float]:
        """More parts of an item's score, of its ratings [heads]."""
        return {}

    def usage(self) -> list[Usage]:
        """The cost of rating since the last call."""
        return self.panel.usage()

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As `Signal.diagnose`, with the spread of every head, and whether scores follow the text's length."""
        length = follows(scores, "words", "correlation_length", "with the number of words")
        return [*score_facts(scores), *spread_facts(scores, cls.constant_below), length]


def rated_parts(heads: Sequence[str], raw: Any, scaled: Any) -> dict[str, float]:
    """The parts of a score: each head on the signal's scale, and as its rater gives it."""
    own = {head: float(value) for head, value in zip(heads, scaled, strict=True)}
    return own | {f"{RAW}{head}": float(value) for head, value in zip(heads, raw, strict=True)}


def spread_facts(scores: Sequence[Score], below: float) -> list[Fact]:
    """Standard deviations of the heads over items, and the heads whose deviation is under `below`."""
    import numpy as np

    scored = [score for score in scores if score.value is not None]
    heads = [name.removeprefix(RAW) for name in scored[0].parts if name.startswith(RAW)] if len(scored) > 1 else []
    spread: Mapping[str, float] = {head: float(np.std(column(scored, head), ddof=1)) for head in heads}
    flat = [f"{head} ({value:.2g})" for head, value in spread.items() if value < below]
    return [
        Fact("spread", list(spread.values()) or None, "standard deviation of " + (", ".join(heads) or "heads")),
        Fact("near_constant", flat or None, f"heads that hardly tell items apart (deviation under {below:g})"),
    ]
