"""The base of every signal: a judgement of how good an item is for a target, declared and carried out by one class.

An item is a sample or a seed. What a
signal declares is read before anything is loaded, so its module imports no library of models at its top.
Reward shaping (scale, clipping, what an invalid sample gets) is not here: it belongs to the driver, since otherwise a
comparison of signals would compare scalings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from harness import plugins
from harness.choice import Plugin
from harness.config import EmbedderConfig
from harness.config_models import Section
from harness.config_runtime import ScoringConfig
from harness.facts import Fact, facts_to_rows
from harness.raters.declaration import RaterDeclaration
from harness.training.checks import Check, to_rows
from harness.types import Message, Sample, Score, Seed, Usage, WorldId
from methods.signals.diagnostics import score_facts

Item: TypeAlias = Sample | Seed

Use: TypeAlias = Literal["selection", "reward", "seeds"]
"""What becomes of scores: pairs are chosen by them out of a pool, a model is trained on them, or seeds are chosen."""


NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "warm_target": "LoRA checkpoints of the target with Adam's moments",
        "target": "the target as it is before any training",
        "target_sampling": "completions of the target",
        "embedder": "models.embedder",
        "judge": "a judge model",
        "rater": "a trained quality rater",
        "ensemble": "warm-ups of the target that differ in their seed alone",
        "planted": "the lab's planted truth",
        "reference": "scores of the first pairs, which normalisers are fitted on",
    }
)
"""What a signal may need, and what each is."""

PROVIDED = frozenset(
    {"warm_target", "target", "target_sampling", "embedder", "rater", "planted", "reference", "ensemble"}
)
"""The needs that runs can meet; a signal with another one is refused before anything is loaded."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A signal's use of one role's model: what it has in memory, and what one scored item takes of it.

    `forward` and `backward` say how often the item goes through it and comes back; `validation` how often all
    validation items go through it besides, for every single item. `every_checkpoint`: all of that at each of the
    warm-up's checkpoints. `hooks`: gradients are read by hooks on LoRA's linears, which see no parameter outside of
    them. `every_weight`: gradients of all weights are held at once, an item at a time. `dtype` is the type that the
    model is loaded in, where it is not the role's own. `samples` completions of at most `tokens` tokens are drawn of an
    item, of which a batch decodes `at_once`. A rater is no role of the run, so `parameters` says how large it is.
    """

    role: Literal["target", "embedder", "judge", "rater"] = "target"
    forward: int = 1
    backward: int = 0
    validation: int = 0
    every_checkpoint: bool = False
    hooks: bool = False
    every_weight: bool = False
    dtype: Literal["float32", "bfloat16"] | None = None
    samples: int = 0
    tokens: int = 0
    at_once: int = 1
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class ValidationExample:
    """One validation conversation; `withheld` ones are scored beside the reward and never enter it.

    `subtask` names the group that an aggregate over subtasks takes its maximum over; empty where the set has none.
    """

    id: str
    messages: tuple[Message, ...]
    withheld: bool = False
    subtask: str = ""


@dataclass(frozen=True, slots=True)
class WarmCheckpoint:
    """A warm-up checkpoint: the folder of its LoRA adapter, its Adam moments, and its weight in a sum over checkpoints.

    Weights of a target's checkpoints sum to 1 (LESS §2: their learning rates, normalised).
    """

    adapter: Path
    adam: Path
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TargetState:
    """The target as signals see it: base weights, and the warm-up's checkpoints where a signal needs them.

    `revision` identifies the weights and is stored with every score; `hub_revision` is what a hub model is loaded at.
    `members` are warm-ups of different seeds, where a signal needs an ensemble.
    """

    model: Path | str
    revision: str
    max_length: int
    dtype: str = "float32"
    hub_revision: str | None = None
    checkpoints: tuple[WarmCheckpoint, ...] = ()
    members: tuple[WarmCheckpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class SignalContext:
    """The context of a signal, beside its own settings: the run's seed, validation items, and machinery.

    `seeds` are the run's documents, for a signal that `reads_seeds`. `reference` holds the rows that the signal's own
    `reference` has left of the first pairs, for one that needs them; None while these rows are made.
    """

    seed: int
    validation: Sequence[ValidationExample] = ()
    seeds: Sequence[Seed] = ()
    lab_world: WorldId | None = None
    batch_size: int = 64
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    reference: Sequence[Score] | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """The items that were accepted before, for signals that score novelty; empty outside closed loops."""

    samples: Sequence[Sample] = ()


@dataclass(frozen=True, slots=True)
class Guided:
    """The fate of a part of the validation items: how many are in use, and how many of those were cut at their end.

    The `unusable` have no answer token within the target's length, or no usable gradient: they guide nothing.
    """

    items: int
    truncated: int = 0
    unusable: int = 0


@dataclass(frozen=True, slots=True)
class Preparation:
    """Findings of preparing a signal: labelled values, checks that passed, and by part (`rewarded`, `withheld`) what
    became of the validation items."""

    facts: Sequence[Fact] = ()
    checks: Sequence[Check] = ()
    validation: Mapping[str, Guided] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As stages store it."""
        parts = {part: asdict(guided) for part, guided in self.validation.items()}
        return {"facts": facts_to_rows(self.facts), "checks": to_rows(self.checks), "validation": parts}


S = TypeVar("S", bound=Section)


class Signal(Plugin, ABC, Generic[S]):
    """A signal: what it declares, and how it scores. A subclass is the whole signal, registered in `harness.signals`.

    Declared on the class, beside what every plug-in declares (`harness.choice.Plugin`): `direction` says which values
    are better, `range` bounds them where they are bounded, `items` which items can be scored. `unit` is `set` for a
    signal that chooses sets (`methods.signals.sets.SetSignal`). `reads_validation`: it sees labelled validation items.
    `reads_seeds`: it compares with the run's documents. `student_aware`: it reads the target. `drawn`: a score is a
    random draw, which a loop draws anew in every round. `stateful`: a score depends on what was accepted before.
    `lab_only`: it reads the lab's truth, and is never ranked. `axis` names what its better values have more (1) or less
    (-1) of, where another signal may be its opposite. Of a signal that is made of others (`terms`), all of this but
    `direction`, `range`, `items` and `unit` holds where a term declares it (`methods.signals.catalogue.declares`).
    """

    group = plugins.SIGNALS

    direction: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (None, None)
    unit: ClassVar[Literal["item", "set"]] = "item"
    items: ClassVar[frozenset[str]] = frozenset({"sample"})
    reads_validation: ClassVar[bool] = False
    reads_seeds: ClassVar[bool] = False
    student_aware: ClassVar[bool] = False
    drawn: ClassVar[bool] = False
    stateful: ClassVar[bool] = False
    lab_only: ClassVar[bool] = False
    axis: ClassVar[tuple[str, int] | None] = None

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @classmethod
    def needs(cls, settings: S) -> frozenset[str]:
        """The needs under these settings, in the words of `NEEDS`."""
        return frozenset()

    @classmethod
    def uses(cls, settings: S) -> tuple[ModelUse, ...]:
        """The models that it has in memory and computes with under these settings; none where scoring is free."""
        return ()

    @classmethod
    def raters(cls, settings: S) -> tuple[RaterDeclaration, ...]:
        """The raters that it asks under these settings. Raises `HarnessError` for one that is not there."""
        return ()

    @classmethod
    def files(cls, settings: S) -> tuple[str, ...]:
        """The files that its settings name, whose content decides its scores."""
        return ()

    @classmethod
    def unfit(cls, settings: S, use: Use) -> str:
        """The reason why it cannot be used so, as the rest of a sentence that begins with it; else empty."""
        return ""

    @classmethod
    def cautions(cls, settings: S) -> tuple[str, ...]:
        """What is to be known of these settings before a run, a sentence each."""
        return ()

    @classmethod
    def members(cls, settings: S) -> int:
        """The number of warm-ups of which its ensemble is made, where it needs one."""
        return 0

    @classmethod
    def reference_items(cls, settings: S) -> int | None:
        """The number of first items whose rows are its reference, where it needs one; None for all."""
        return None

    @classmethod
    def unscorable(cls, seed: Seed) -> str:
        """The reason why it cannot score a seed, by what the seed is, where it scores seeds at all; else empty."""
        return ""

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Load what is needed, check it, and say what was found. Raises `StageError` where scores would be wrong."""
        return Preparation()

    @abstractmethod
    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item, in order; `value` is None where an item could not be measured. No item is an error."""

    def reference(self, items: Sequence[Item]) -> list[Score]:
        """The rows of `items` that `prepare` is to fit normalisers on, of a signal that needs a reference."""
        return self.score(items, Archive())

    def usage(self) -> list[Usage]:
        """The cost of scoring since the last call."""
        return []

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """The diagnostics of a scoring, reported because a score alone does not say whether it can be believed."""
        return score_facts(scores)

    @classmethod
    def faults(cls) -> list[str]:
        """As `Plugin.faults`, and what is wrong with a signal's own declarations."""
        found = super().faults()
        if cls.direction not in ("higher", "lower"):
            found.append("direction must be 'higher' or 'lower'")
        if cls.unit == "set" and not hasattr(cls, "choose"):
            found.append("unit 'set' is for subclasses of methods.signals.sets.SetSignal")
        if not cls.items or not cls.items <= {"sample", "seed"}:
            found.append("items must be of 'sample' and 'seed'")
        if not found and (odd := cls.needs(cls.Settings()) - NEEDS.keys()):  # type: ignore[arg-type]
            found.append(f"needs '{min(odd)}' is none of {', '.join(NEEDS)}")
        return found
