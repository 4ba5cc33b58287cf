"""Base of the signals of what the target answers by itself: it puts the item's question and leaves the formula.

The question is the conversation up to the assistant's answer, in the target's own chat template. What decides an answer
(temperature, longest answer, template, stop tokens, seed) is a setting or recorded when the signal is prepared. An
answer's seed is derived from the run's and the item's id alone.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from pydantic import Field

from harness.config_models import Section
from harness.facts import Fact
from harness.models.tokenizers import stop_ids
from harness.training import literal
from harness.training.chat import Encoded, prompt_ids
from harness.training.checks import Check, judge
from harness.training.template import control_tokens, template_hash
from harness.types import Message, Score, Seed, derive_seed
from methods.signals.base import Archive, Item, ModelUse
from methods.signals.diagnostics import follows, mean_of, score_facts
from methods.signals.target.base import TargetReader

if TYPE_CHECKING:
    from methods.signals.target.answers import Answer

CHECKED = 6
"""Tokens that the self-check decodes."""


class AnswerSettings(Section):
    """The target that answers, and its sampling."""

    checkpoint: Literal["warm", "base"] = "warm"
    """The last warm-up checkpoint, or the base before any training, which needs no warm-up."""
    max_tokens: int = Field(512, ge=1)
    """Longest answer in tokens, within the target's length."""
    template: Literal["chat", "none"] = "chat"
    """Puts the conversation in the target's chat template, or its last question as bare text."""


A = TypeVar("A", bound=AnswerSettings)


def asked(item: Item) -> tuple[Message, ...]:
    """The turns that the target is to answer; none where the item does not ask anything."""
    turns = tuple(item.messages or ())
    turns = turns[:-1] if turns and turns[-1].role == "assistant" else turns
    return turns if turns and turns[-1].role == "user" else ()


class AnswerSignal(TargetReader[A]):
    """A signal of the target's own answers: `measure_answers` is its formula.

    A seed that is a conversation is asked as a pair is; one that is a document asks nothing and is unscorable.
    """

    items = frozenset({"sample", "seed"})
    read: ClassVar[str] = "answers"

    @classmethod
    def temperature(cls, settings: A) -> float:
        """The temperature that answers are drawn at; 0 is greedy."""
        return 0.0

    @classmethod
    def count(cls, settings: A) -> int:
        """The number of answers that are drawn of an item."""
        return 1

    @classmethod
    def unscorable(cls, seed: Seed) -> str:
        """It puts a question."""
        return "" if asked(seed) else "it asks no question"

    @abstractmethod
    def measure_answers(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, float]:
        """The item's `value`, and under other names what is kept beside it."""

    def fault(self, item: Item) -> str:
        """The reason why an item cannot be scored, before anything is computed; empty where it can."""
        return "" if asked(item) else "it asks no question"

    @classmethod
    def needs(cls, settings: A) -> frozenset[str]:
        """The target, warmed up or as it is, and its completions."""
        return frozenset({"warm_target" if settings.checkpoint == "warm" else "target", "target_sampling"})

    @classmethod
    def uses(cls, settings: A) -> tuple[ModelUse, ...]:
        """A question is read once, and its answers are decoded together."""
        count = cls.count(settings)
        return (ModelUse("target", samples=count, tokens=settings.max_tokens, at_once=count),)

    def checks(self) -> list[Check]:
        """That decoding with a cache gives tokens the probabilities that they have in one whole pass."""
        import torch

        from methods.signals.target.answers import answer
        from methods.signals.target.losses import ReferenceLoss

        prompt = tuple(1 + i for i in range(9))
        (made,) = answer(self.model, self.tokenizer, prompt, CHECKED, 0.0, [0])
        whole = ReferenceLoss(self.model, self.tokenizer.pad_token_id, self.context.scoring.batch_tokens)
        loss = float(whole.plain([Encoded((*prompt, *made.ids), len(prompt))])[0])
        wide = self.model.get_input_embeddings().weight.dtype == torch.float32
        remedy = "Answers would not be the target's own; try another attention implementation or dtype=float32"
        off = abs(loss + float(made.log_p.mean()))
        return [
            judge("cached equals whole", off, 1e-3 if wide else 0.5, f"{len(made.ids)} greedy tokens, in nats", remedy)
        ]

    def ready(self) -> list[Fact]:
        """The facts that decide the answers."""
        settings = self.settings
        bare = settings.template == "none"
        return [
            Fact("checkpoint", settings.checkpoint, "checkpoint that is read"),
            Fact("answers", self.count(settings), "answers to a question"),
            Fact("temperature", self.temperature(settings), "temperature of the answers, 0 for greedy ones"),
            Fact("max_tokens", settings.max_tokens, "longest answer", "tokens"),
            Fact("template", "none" if bare else template_hash(self.tokenizer), "hash of the question's chat template"),
            Fact("stop_tokens", list(stop_ids(self.model, self.tokenizer)), "ids that end an answer"),
            Fact("answer_seed", self.context.seed, "seed that answers' seeds are derived from"),
        ]

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item; what asks no question, or leaves no room for an answer, is unscorable."""
        return [self._score(item) for item in items]

    def _score(self, item: Item) -> Score:
        from methods.signals.target.answers import answer

        started = time.perf_counter()
        reason = self.fault(item)
        prompt = [] if reason else self._prompt(asked(item))
        room = min(self.settings.max_tokens, self.target.max_length - len(prompt))
        if reason or not prompt or room < 1:
            reason = reason or "the question leaves no room for an answer"
            return Score.unscorable(item.id, self.name, reason, self.target.revision)
        count = self.count(self.settings)
        seeds = [derive_seed(self.context.seed, "answer", item.id, i) for i in range(count)]
        found = answer(self.model, self.tokenizer, prompt, room, self.temperature(self.settings), seeds)
        written = sum(len(a.ids) for a in found)
        # The prompt is read once for all of its answers.
        self.book(started, len(prompt), written, count, 2.0 * self.parameters * (len(prompt) + written))
        parts = dict(self.measure_answers(item, found))
        value = parts.pop("value", math.nan)
        if not math.isfinite(value):
            reason = "the target's probabilities are not finite"
            return Score.unscorable(item.id, self.name, reason, self.target.revision)
        parts |= {"answer_tokens": written / count, "cut_answers": sum(not a.ended for a in found) / count}
        return Score(
            item_id=item.id,
            signal=self.name,
            value=value,
            status="ok",
            reason="",
            parts=parts,
            target_rev=self.target.revision,
        )

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        if self.settings.template == "chat":
            return prompt_ids(self.tokenizer, turns)
        controls = control_tokens(self.tokenizer)
        text = literal.mark(turns[-1].content, controls)
        return literal.tokenize_marked(self.tokenizer, text, controls, add_special_tokens=True)

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As `Signal.diagnose`, with the answers that were cut, and whether scores follow the answers' length."""
        cut = mean_of(scores, "cut_answers", "cut_answers", "share of answers that were cut at their longest")
        length = follows(scores, "answer_tokens", "correlation_length", "with the length of the target's answers")
        return [*score_facts(scores), cut, length]
