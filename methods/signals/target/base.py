"""Base of the signals that read the target: all that surrounds their formula.

It loads the target with the checkpoint that the settings ask for, encodes, says what cannot be scored, checks the
model, takes the time and accounts for the passes that the class has declared. A subclass says what it uses, what it
makes ready, and what it measures of encoded items.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.errors import StageError
from harness.facts import Fact
from harness.training.chat import Encoded, encode
from harness.training.checks import Check, require
from harness.training.layouts import check_layout
from harness.types import Message, Sample, Score, Usage
from methods.signals.base import (
    Archive,
    Guided,
    Item,
    ModelUse,
    Preparation,
    S,
    Signal,
    SignalContext,
    TargetState,
    ValidationExample,
)
from methods.signals.diagnostics import cut_items, follows, score_facts
from methods.signals.items import UNLABELLED, answered

REMEDY = (
    "Scores would be wrong; try runtime.scoring.layout=right, activation_checkpointing=false, "
    "models.target.dtype=float32, or another attention implementation"
)
"""What to change where the target scores an item otherwise in a batch than alone."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Passes over encoded items: how often each goes forward through the target, and how often it comes back."""

    codes: Sequence[Encoded]
    forward: int = 1
    backward: int = 0


class TargetReader(Signal[S]):
    """All of a signal that reads the target but its scores; `ready` is what it prepares once.

    While it scores, `model` and `tokenizer` are the target's, `target` and `context` what it was prepared with, and
    `validation` the validation items that have an answer token within the target's length, in the order in which they
    were given. `started` is when the work on them began. `read` is what the checks are about.
    """

    student_aware = True
    read: ClassVar[str] = "losses"

    model: Any
    tokenizer: Any
    target: TargetState
    context: SignalContext
    validation: Sequence[tuple[ValidationExample, Encoded]]
    started: float
    parameters: float

    @classmethod
    def use(cls, settings: S) -> ModelUse:
        """Its use of the target, out of all its uses."""
        return next(use for use in cls.uses(settings) if use.role == "target")

    def ready(self) -> list[Fact]:
        """Prepare what every measurement needs, once the target is loaded and checked; returns what was found."""
        return []

    def open(self) -> tuple[Any, Any]:
        """The target's model and tokenizer, as the declared use and needs have it."""
        use = self.use(self.settings)
        dtype = use.dtype or self.target.dtype
        if use.backward:
            from methods.signals.target.warm import open_warm

            return open_warm(self.target, dtype)
        from harness.models.transformers_backend import load_causal_lm

        model, tokenizer = load_causal_lm(self.target.model, dtype, self.target.hub_revision)
        if "warm_target" in self.needs(self.settings):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self.target.checkpoints[-1].adapter)
        return model.eval(), tokenizer

    def checks(self) -> list[Check]:
        """Checks of the loaded target: that padded batches, in which losses are read, change no score."""
        return [check_layout(self.model, "right", REMEDY)]

    def usable(self) -> Sequence[bool]:
        """Of the `validation` items, which guide: all that have an answer token left."""
        return [True] * len(self.validation)

    def prepare(self, context: SignalContext, target: TargetState | None) -> Preparation:
        """Load, encode, check and make ready.

        Raises `StageError` where there is no target as needed or no usable validation item, or where a check fails.
        """
        asked = self._require(context, target)
        self._load(context, asked, context.validation if self.reads_validation else ())
        if self.reads_validation and not any(not item.withheld for item, _ in self.validation):
            raise StageError(
                f"every validation item is longer than the target's max_length of {asked.max_length} tokens; raise "
                "models.target.max_length"
            )
        self.started = time.perf_counter()
        checks = self.checks()
        what = "gradients" if self.use(self.settings).backward else self.read
        require(checks, f"{what} of the target under signal {self.name}")
        return Preparation(self.ready(), checks, self._guided(context))

    def self_check(
        self, context: SignalContext, target: TargetState, conversations: Sequence[Sequence[Message]]
    ) -> list[Check]:
        """The checks of `prepare` alone, on `conversations` in place of validation items; none where all are too long.

        No moments and no validation set are needed.
        """
        made_up = [ValidationExample(str(i), tuple(messages)) for i, messages in enumerate(conversations)]
        self._load(context, target, made_up)
        return self.checks() if self.validation else []

    def _require(self, context: SignalContext, target: TargetState | None) -> TargetState:
        needs = self.needs(self.settings)
        if target is None or ("warm_target" in needs and not target.checkpoints):
            which = "a warmed-up target with Adam's moments" if "warm_target" in needs else "the target"
            raise StageError(f"{self.name} needs {which}; the driver did not provide one")
        if self.reads_validation and not any(not v.withheld for v in context.validation):
            raise StageError(f"{self.name} needs validation items; name a validation set with --guide")
        return target

    def _load(self, context: SignalContext, target: TargetState, validation: Sequence[ValidationExample]) -> None:
        self.context, self.target = context, target
        self._usage: list[Usage] = []
        self.model, self.tokenizer = self.open()
        self.parameters = float(self.model.num_parameters())
        both = [(item, self.encode(item.messages)) for item in validation]
        self.validation = [(item, code) for item, code in both if code.completion_length]

    def _guided(self, context: SignalContext) -> dict[str, Guided]:
        """By part what became of the validation items; a part that was not asked for is left out."""
        found = {}
        usable = list(zip(self.validation, self.usable(), strict=True))
        for part, withheld in (("rewarded", False), ("withheld", True)):
            asked = sum(v.withheld == withheld for v in context.validation)
            mine = [(code, ok) for (item, code), ok in usable if item.withheld == withheld]
            used, cut = sum(ok for _, ok in mine), sum(code.truncated > 0 for code, _ in mine)
            if asked and self.reads_validation:
                found[part] = Guided(used, cut, asked - used)
        return found

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """A conversation's tokens, cut at the target's `max_length`."""
        return encode(self.tokenizer, messages, self.target.max_length)

    def conversation(self, item: Item) -> tuple[Message, ...]:
        """The conversation that is encoded of an item; nothing of a kind that is not scored, or without an answer."""
        return answered(item) if isinstance(item, Sample) or "seed" in self.items else ()

    def no_conversation(self, item: Item) -> str:
        """The reason why nothing is encoded of an item."""
        return UNLABELLED if "seed" in self.items else "only samples can be scored"

    def _declared(self, codes: Sequence[Encoded]) -> list[Passes]:
        """The cost of scoring `codes` by the class's own declaration."""
        use = self.use(self.settings)
        points = len(self.target.checkpoints) if use.every_checkpoint else 1
        passes = [Passes(codes, points * use.forward, points * use.backward)]
        if use.validation:
            passes.append(Passes([code for _, code in self.validation], points * use.validation * len(codes)))
        return passes

    def spend(self, started: float, *passes: Passes) -> None:
        """Account for passes that were begun at `started`: 2 operations a parameter and token forward, 4 back."""
        tokens = calls = 0
        flops = 0.0
        for made in passes:
            length = sum(len(code.ids) for code in made.codes)
            tokens += made.forward * length
            calls += made.forward * len(made.codes)
            flops += self.parameters * length * (2.0 * made.forward + 4.0 * made.backward)
        self.book(started, tokens, 0, calls, flops)

    def book(self, started: float, read: int, written: int, calls: int, flops: float) -> None:
        """Account for tokens that the target read and wrote in work that was begun at `started`."""
        self._usage.append(
            Usage(
                role="target",
                model=self.name,
                prompt_tokens=read,
                completion_tokens=written,
                calls=calls,
                seconds=time.perf_counter() - started,
                flops=flops,
            )
        )

    def usage(self) -> list[Usage]:
        """The usage since the last call: first the preparation, then a record for every batch of items."""
        spent, self._usage = self._usage, []
        return spent

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As `Signal.diagnose`, with what the target's length cut, and whether scores follow the answer's length."""
        length = follows(scores, "completion_tokens", "correlation_length", "with the answer's length")
        return [*score_facts(scores), cut_items(scores), length]


class TargetSignal(TargetReader[S]):
    """A signal that reads the target and scores items one by one: `measure` is its formula.

    `unmeasured` is what is said of an item whose measurement has no finite `value`.
    """

    unmeasured: ClassVar[str] = "value is not finite"

    @abstractmethod
    def measure(self, codes: Sequence[Encoded]) -> Sequence[Mapping[str, float]]:
        """Of every item its `value`, and under other names what is kept beside it; empty where there is none."""

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; what is not of the kinds that it scores, or has no answer token left, is unscorable."""
        started = time.perf_counter()
        conversations = {item.id: self.conversation(item) for item in items}
        codes = {key: self.encode(messages) for key, messages in conversations.items() if messages}
        scorable = {key: code for key, code in codes.items() if code.completion_length}
        found: dict[str, Mapping[str, float]] = {}
        if scorable:
            found = dict(zip(scorable, self.measure(list(scorable.values())), strict=True))
            self.spend(started, *self._declared(list(scorable.values())))
        return [self._score(item, codes.get(item.id), found.get(item.id)) for item in items]

    def _score(self, item: Item, code: Encoded | None, found: Mapping[str, float] | None) -> Score:
        value = (found or {}).get("value", float("nan"))
        if code is not None and found is not None and abs(value) < float("inf"):
            parts = {**code.counts, **{name: part for name, part in found.items() if name != "value"}}
            return Score(
                item_id=item.id,
                signal=self.name,
                value=value,
                status="ok",
                reason="",
                parts=parts,
                target_rev=self.target.revision,
            )
        reason = self.no_conversation(item) if code is None else "no completion token left"
        reason = self.unmeasured if found is not None else reason
        return Score.unscorable(item.id, self.name, reason, self.target.revision)
