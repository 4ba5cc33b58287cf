"""The `combine` signal: a weighted sum of other signals, each brought to one scale by a frozen reference.

Signals come in units of their own, so they cannot be added as they are; and a scale that followed the batch would make
an item's score depend on what is scored beside it. So every term is normalised by what the run's first pairs got
(z-score, empirical distribution or min-max): a stage of its own scores them before anything else, and its rows stay
with the run. Under a selection the first pairs are the pool that is chosen from; under a learner they are the pairs of
the untrained model. Terms of which lower is better are turned round first. With `normalise=minmax` over the whole pool,
equal weights and selection of the best, this is AcquisitionSynthesis' baseline `filtered` (the preset).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from harness.config import SignalChoice
from harness.config_models import Section
from harness.errors import StageError
from harness.facts import Fact
from harness.raters.declaration import RaterDeclaration
from harness.types import Score, Usage
from methods.signals.base import (
    Archive,
    Guided,
    Item,
    ModelUse,
    Preparation,
    Signal,
    SignalContext,
    TargetState,
    Use,
)
from methods.signals.catalogue import make_signal, sign, signal_class
from methods.signals.diagnostics import follows, score_facts
from methods.signals.normalise import How, Normaliser, fit

SCALED = "_scaled"
"""What the name of a score's part ends with that is a term's value after normalising."""


class Term(Section):
    """A signal with its settings, and its weight."""

    signal: SignalChoice
    """The signal, by its name or as a mapping of its name and settings."""
    weight: float = 1.0
    """What its normalised value is multiplied by; below 0 it counts against an item."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"signal": given} if isinstance(given, str) else given

    @field_validator("signal")
    @classmethod
    def _scores_items(cls, choice: SignalChoice) -> SignalChoice:
        if not choice.chosen:
            raise ValueError("'none' is no signal; name one that is installed (see 'harness signals')")
        found = signal_class(choice.name)
        if found.unit == "set":
            raise ValueError(f"'{choice.name}' chooses sets, and a term scores items one by one; leave it out")
        if "reference" in found.needs(choice.settings):
            raise ValueError(f"'{choice.name}' is normalised by a reference already, and cannot be a term")
        return choice

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a weight of 0 leaves the term out; drop it")
        return weight


class CombineSettings(Section):
    """The terms of the sum, and how they are brought to one scale."""

    terms: tuple[Term, ...] = ()
    """Signals by name, or mappings of `signal` and `weight`: `loss,novelty`, or
    `[{signal: {name: loss, checkpoint: base}}, {signal: length, weight: -0.5}]`."""
    normalise: How = "z"
    """How a term's values are brought to one scale: standard deviations from the reference's mean (`z`), the share of
    the reference below (`cdf`), or from its lowest to its highest value (`minmax`)."""
    cut: bool = True
    """Cuts `z` at 3 standard deviations and `minmax` at the reference's ends, so that one outlier does not decide."""
    reference: int | None = Field(500, ge=2)
    """The first items, at most, that normalisers are fitted on; null takes all."""

    def labels(self) -> list[str]:
        """The terms' names: their signals', with a number where one comes again."""
        names = [term.signal.name for term in self.terms]
        times = [names[:at].count(name) + 1 for at, name in enumerate(names)]
        return [name if nth == 1 else f"{name}_{nth}" for name, nth in zip(names, times, strict=True)]


@dataclass(frozen=True, slots=True)
class _Part:
    """A term at work."""

    label: str
    signal: Signal[Any]
    weight: float
    sign: float
    normaliser: Normaliser | None = None

    def scaled(self, value: float) -> float:
        """What a raw value adds to the sum."""
        assert self.normaliser is not None
        return self.weight * self.normaliser(self.sign * value)


class CombineSignal(Signal[CombineSettings]):
    """Σ w_i · n_i(s_i), n_i the i-th term's normaliser; higher is better. An item that a term cannot score has none."""

    name = "combine"
    summary = "weighted sum of other signals, each normalised by the scores of the run's first pairs"
    Settings = CombineSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # AcquisitionSynthesis' baseline; its proximity and diversity cancel, and the released script leaves them out.
        "filtered": {
            "terms": [
                {"signal": {"name": "confidence"}},
                {"signal": {"name": "gradient_norm"}},
                {"signal": {"name": "answer_variance"}},
            ],
            "normalise": "minmax",
            "reference": None,
        }
    }

    @classmethod
    def terms(cls, settings: CombineSettings) -> tuple[SignalChoice, ...]:
        """The terms' signals."""
        return tuple(term.signal for term in settings.terms)

    @classmethod
    def needs(cls, settings: CombineSettings) -> frozenset[str]:
        """The reference, and whatever a term needs."""
        own = [signal_class(choice.name).needs(choice.settings) for choice in cls.terms(settings)]
        return frozenset({"reference"}).union(*own)

    @classmethod
    def uses(cls, settings: CombineSettings) -> tuple[ModelUse, ...]:
        """The terms' uses, one after the other: each has a model of its own in memory."""
        own = (signal_class(choice.name).uses(choice.settings) for choice in cls.terms(settings))
        return tuple(itertools.chain.from_iterable(own))

    @classmethod
    def raters(cls, settings: CombineSettings) -> tuple[RaterDeclaration, ...]:
        """The terms' raters."""
        own = (signal_class(choice.name).raters(choice.settings) for choice in cls.terms(settings))
        return tuple(itertools.chain.from_iterable(own))

    @classmethod
    def files(cls, settings: CombineSettings) -> tuple[str, ...]:
        """The files that the terms' settings name."""
        own = (signal_class(choice.name).files(choice.settings) for choice in cls.terms(settings))
        return tuple(itertools.chain.from_iterable(own))

    @classmethod
    def reference_items(cls, settings: CombineSettings) -> int | None:
        """As the settings say."""
        return settings.reference

    @classmethod
    def unfit(cls, settings: CombineSettings, use: Use) -> str:
        """Without terms there is no sum, and a term that is unfit makes the whole so."""
        if not settings.terms:
            return "has no terms; set signal.terms, for example to loss,novelty ('harness explain signal.terms')"
        for choice in cls.terms(settings):
            if why := signal_class(choice.name).unfit(choice.settings, use):
                return f"has the term '{choice.name}', which {why}"
        return ""

    @classmethod
    def cautions(cls, settings: CombineSettings) -> tuple[str, ...]:
        """Terms that are each other's opposites."""
        found = []
        named = list(zip(settings.labels(), settings.terms, strict=True))
        for (one, first), (other, second) in itertools.combinations(named, 2):
            a, b = signal_class(first.signal.name).axis, signal_class(second.signal.name).axis
            if a and b and a[0] == b[0] and a[1] * first.weight * b[1] * second.weight < 0:
                text = f"'{one}' and '{other}' cancel: one term is for and the other against {a[0]}"
                found.append(f"{text}; leave one out, or give it a weight of the other sign")
        return tuple(found)

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Prepare every term, and fit its normaliser where there is a reference.

        Raises `StageError` where a term has no score on the whole reference.
        """
        self._parts, facts, checks = [], [], []
        validation: dict[str, Guided] = {}
        self._known: dict[str, dict[str, Score]] = {}
        for row in context.reference or ():
            self._known.setdefault(row.item_id, {})[row.signal] = row
        for label, term in zip(self.settings.labels(), self.settings.terms, strict=True):
            part = _Part(label, make_signal(term.signal), term.weight, sign(term.signal.name))
            found = part.signal.prepare(context, target)
            facts += [replace(f, name=f"{label}_{f.name}", meaning=f"{label}: {f.meaning}") for f in found.facts]
            checks += [replace(check, name=f"{label}: {check.name}") for check in found.checks]
            validation = {**found.validation, **validation}
            if context.reference is not None:
                part = self._fitted(part, context.reference)
                said = part.normaliser.line if part.normaliser else ""
                facts.append(Fact(f"{label}_reference", said, f"{label}: values of the reference"))
            self._parts.append(part)
        return Preparation(facts, checks, validation)

    def _fitted(self, part: _Part, reference: Sequence[Score]) -> _Part:
        values = [part.sign * row.value for row in reference if row.signal == part.label and row.value is not None]
        if not values:
            why = next((row.reason for row in reference if row.signal == part.label), "there is none")
            raise StageError(
                f"signal '{self.name}' cannot normalise its term '{part.label}': no pair of the reference has a score "
                f"({why})"
            )
        return replace(part, normaliser=fit(self.settings.normalise, values, cut=self.settings.cut))

    def reference(self, items: Sequence[Item]) -> list[Score]:
        """Every term's raw scores of `items`, under the terms' names."""
        return [score for scores in self._raw(items, Archive()).values() for score in scores.values()]

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item, with every term's raw and weighted value; the reference is not scored again."""
        # Scores of the reference are those of an empty archive.
        known = {} if archive.samples else self._known
        raw = self._raw([item for item in items if item.id not in known], archive)
        own = (known.get(item.id) or {label: scores[item.id] for label, scores in raw.items()} for item in items)
        return [self._sum(item.id, terms) for item, terms in zip(items, own, strict=True)]

    def _raw(self, items: Sequence[Item], archive: Archive) -> dict[str, dict[str, Score]]:
        """By term and item the raw scores."""
        found: dict[str, dict[str, Score]] = {}
        for part in self._parts:
            scores = part.signal.score(items, archive) if items else []
            found[part.label] = {score.item_id: replace(score, signal=part.label) for score in scores}
        return found

    def _sum(self, item_id: str, terms: Mapping[str, Score]) -> Score:
        revision = next((score.target_rev for score in terms.values() if score.target_rev), "")
        for label, score in terms.items():
            if score.value is None:
                why = f"{label}: {score.reason}"
                return replace(score, signal=self.name, reason=why, parts={}, target_rev=revision)
        values = {label: score.value for label, score in terms.items() if score.value is not None}
        scaled = {part.label: part.scaled(values[part.label]) for part in self._parts}
        parts = {**values, **{f"{label}{SCALED}": value for label, value in scaled.items()}}
        if any("withheld" in score.parts for score in terms.values()):
            withheld = {label: score.parts.get("withheld", values[label]) for label, score in terms.items()}
            parts["withheld"] = sum(part.scaled(withheld[part.label]) for part in self._parts)
        return Score(
            item_id=item_id,
            signal=self.name,
            value=sum(scaled.values()),
            status="ok",
            reason="",
            parts=parts,
            target_rev=revision,
        )

    def usage(self) -> list[Usage]:
        """The cost of scoring since the last call, by all terms."""
        return [spent for part in self._parts for spent in part.signal.usage()]

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As the base says, and which terms the sum follows."""
        labels = dict.fromkeys(name for score in scores for name in score.parts if name.endswith(SCALED))
        named = [(label, label.removesuffix(SCALED)) for label in labels]
        own = [follows(scores, part, f"correlation_{term}", f"with term {term}, as weighted") for part, term in named]
        return [*score_facts(scores), *own]
