"""The base of routes. A route is the way from a seed to a pair, of which one model drafts and what follows is fixed.

The drafting model is the one that a learner trains; whatever reads the draft and makes a pair of it stays as it is, so
that every driver works on every route. A failed step is a reject with its reason and raw text, never a placeholder: an
invalid pair is not scored and not trained on. The checks of pairs are the same on all routes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar, get_args

from harness import plugins
from harness.choice import Plugin
from harness.config_models import Section
from harness.costs.lengths import CallLengths, Lengths
from harness.models.backend import Completion
from harness.models.forms import Form
from harness.models.prompts import Prompt
from harness.synthesis.copies import COPIES_SEED, rouge_l
from harness.synthesis.parsing import Failure
from harness.synthesis.validity import check_pair
from harness.synthesis.wording import WORDINGS, Wording
from harness.types import Message, Reject, Rubric, Sample, Seed, stable_hash

if TYPE_CHECKING:
    from harness.config import ModelConfig, SynthesisConfig

S = TypeVar("S", bound=Section)

Role = Literal["writer", "generator", "answerer"]
"""Whose model is asked."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One planned trajectory: a seed, and the number of the draw among those of the same seed."""

    seed: Seed
    rollout: int
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafting model's output for a draw; `shortened` where it saw only the beginning of the document.

    `failure` is the code of a request that its server gave no text for; `text` then holds the detail. `model` is the
    name that is recorded with a pair which the draft alone makes; token counts are those of the call.
    """

    draw: Draw
    text: str
    finish_reason: str
    shortened: bool = False
    failure: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def completion(self) -> Completion:
        """The draft as a completion, where it is a pair already."""
        return Completion(self.text, self.finish_reason, self.prompt_tokens, self.completion_tokens)

    def id(self, kind: str) -> str:
        """The id of what the draft is: a `rubric`, a `question`, or the text that a pair is read from."""
        return stable_hash(kind, self.draw.seed.id, self.draw.origin, self.draw.rollout, self.text)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The fate of a draft: a rubric or a question where the route has one and it parsed, and a sample or a reject.

    The reject is what ended it. `question_type` is the one that a rubric names; empty without.
    """

    draft: Draft
    rubric: Rubric | None = None
    sample: Sample | None = None
    reject: Reject | None = None
    question_type: str = ""
    question: str = ""

    @property
    def open(self) -> bool:
        """Whether the rest of the way is still to be gone."""
        return self.sample is None and self.reject is None


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a route: the prompt, what fills it, and which of that is cut where it does not fit.

    `form` is the JSON that a server can hold the answer to.
    """

    prompt: Prompt
    variables: Mapping[str, str]
    cut: str = "document"
    form: Form | None = None


def document_of(seed: Seed) -> str:
    """A seed's document; a conversation is written out turn by turn."""
    if seed.text is not None:
        return seed.text
    return "\n\n".join(f"{m.role}: {m.content}" for m in seed.messages or ())


def reference_of(seed: Seed) -> tuple[str, str] | None:
    """Question and answer of a labelled seed: the last user turn that an assistant's follows; None for a document."""
    turns = [m for m in seed.messages or () if m.role != "system"]
    for at in range(len(turns) - 1, 0, -1):
        if turns[at].role == "assistant" and turns[at - 1].role == "user":
            return turns[at - 1].content, turns[at].content
    return None


def first_exchange(seed: Seed) -> tuple[str, str] | None:
    """The first question of a labelled seed with its answer, which stand alone; None for a document."""
    spoken = [m for m in seed.messages or () if m.role != "system"]
    if [m.role for m in spoken[:2]] != ["user", "assistant"]:
        return None
    return spoken[0].content, spoken[1].content


def variables_of(seed: Seed) -> dict[str, str]:
    """The variables of a prompt about a seed: `document`, `domain`, and of a labelled one `question` and `answer`."""
    known = {"document": document_of(seed), "domain": seed.domain}
    reference = reference_of(seed)
    return known if reference is None else {**known, "question": reference[0], "answer": reference[1]}


class Route(Plugin, ABC, Generic[S]):
    """A route: what it declares, how it asks, and how it reads. A subclass is the whole route, settings included.

    Declared on the class, beside what every plug-in declares (`harness.choice.Plugin`): `drafts`, the role whose model
    drafts and which a learner trains, or None where the seed holds the pair and `read` takes it from there; `answers`,
    the role that is asked for the rest, or None where the draft is the pair; `structured`, the roles whose servers can
    be held to JSON; `writes_after_labelled`, whether a labelled seed is an example to write after, near copies of which
    `copy_limit` keeps out, or a text to write about as a document is; `writes_tags`, whether drafts are asked for in
    the tags that a format term counts. It is registered in the entry-point group `harness.routes`.
    """

    group = plugins.ROUTES

    drafts: ClassVar[Role | None]
    answers: ClassVar[Role | None] = None
    structured: ClassVar[frozenset[Role]] = frozenset()
    writes_after_labelled: ClassVar[bool] = False
    writes_tags: ClassVar[bool] = False

    @classmethod
    def faults(cls) -> list[str]:
        """See `Plugin.faults`; also roles that are missing or unknown, and a role that nothing asks."""
        found = super().faults()
        drafts = getattr(cls, "drafts", "")
        if drafts not in ("writer", "generator", None):
            found.append("drafts must be 'writer' or 'generator', or None where the seed holds the pair")
        if drafts is not None and cls.ask is Route.ask:
            found.append("a route whose model drafts needs ask")
        if cls.answers not in (None, *get_args(Role)):
            found.append(f"answers must be one of {', '.join(get_args(Role))}, or None")
        own = (cls.ask_rest is not Route.ask_rest, cls.read_rest is not Route.read_rest)
        if cls.answers is not None and not all(own):
            found.append("a route with answers needs ask_rest and read_rest")
        return found

    def __init__(self, settings: S, synthesis: SynthesisConfig) -> None:
        """Read and check the prompts. Raises `ConfigError` for a prompt file that cannot be used."""
        self.settings = settings
        self.validity = synthesis.validity
        self.system_message = synthesis.system_message
        self.wording: Wording = WORDINGS[synthesis.prompts]
        self.prompts: Mapping[str, Prompt] = self.load(synthesis)

    def check(self, models: Mapping[str, ModelConfig]) -> None:
        """Raise `ConfigError` where a model, by role, cannot do what this route asks of it."""

    @abstractmethod
    def load(self, synthesis: SynthesisConfig) -> Mapping[str, Prompt]:
        """The route's prompts by name, checked."""

    @classmethod
    @abstractmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """The calls of one draw in their order, with typical tokens: the drafting one first."""

    def ask(self, seed: Seed) -> Asked:
        """The request to the drafting model for a draft about a seed."""
        raise NotImplementedError(f"route '{self.name}' asks nobody for a draft")

    @abstractmethod
    def read(self, draft: Draft) -> Attempt:
        """The attempt that a draft makes: one that is still open, or one that ends here."""

    def unusable(self, seed: Seed) -> str:
        """The reason for which no pair can come of a seed, whatever is written; empty for one that is good."""
        return ""

    def ask_rest(self, attempt: Attempt) -> Asked:
        """The request that brings an open attempt to a pair, by the model of the role `answers`."""
        raise NotImplementedError(f"route '{self.name}' asks nobody for the rest")

    def read_rest(self, attempt: Attempt, completion: Completion, model: str) -> Attempt:
        """The attempt at its end, with what was answered to `ask_rest`."""
        raise NotImplementedError(f"route '{self.name}' asks nobody for the rest")

    @property
    def copy_limit(self) -> float:
        """Highest ROUGE-L of a question with that of its labelled seed, and of its siblings; 1: whatever it is."""
        return 1.0

    @property
    def hash(self) -> str:
        """Hash of all prompts, the system line, and the wording where it is not the full one."""
        how = [] if self.wording.json else [self.wording.name]
        return stable_hash(*(p.hash for p in self.prompts.values()), self.system_message, *how)

    def ended(
        self,
        attempt: Attempt,
        parsed: tuple[Message, ...] | Failure,
        completion: Completion,
        sample_id: str,
        model: str,
    ) -> Attempt:
        """The attempt with its pair checked: a sample, or the reject that ends it. `model` is who wrote the pair."""
        draft = attempt.draft
        if isinstance(parsed, Failure):
            return replace(attempt, reject=Reject(sample_id, parsed.reason, completion.text, parsed.detail))
        seed = draft.draw.seed
        reason, detail = self._fault(attempt, parsed, seed)
        if reason:
            return replace(attempt, reject=Reject(sample_id, reason, completion.text, detail))
        sample = Sample(
            id=sample_id,
            seed_ids=(seed.id,),
            rubric_id=attempt.rubric.id if attempt.rubric else None,
            prompt_hash=self.hash,
            messages=parsed,
            raw=completion.text,
            generator=model,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            rollout=draft.draw.rollout,
        )
        return replace(attempt, sample=sample)

    def _fault(self, attempt: Attempt, pair: tuple[Message, ...], seed: Seed) -> tuple[str, str]:
        """Reason and detail of what is wrong with a pair; empty where nothing is."""
        reference = reference_of(seed)
        verdict = check_pair(
            pair,
            document="" if reference and self.writes_after_labelled else document_of(seed),
            question_type=attempt.question_type or None,
            settings=self.validity,
        )
        if not verdict.valid:
            return verdict.reason, verdict.detail
        if reference and self.copy_limit < 1:
            likeness = rouge_l(next(m.content for m in pair if m.role == "user"), reference[0])
            if likeness > self.copy_limit:
                return COPIES_SEED, f"ROUGE-L {likeness:.2f} with the seed's question"
        return "", ""


def failed(draft: Draft, role: str, kind: str) -> Attempt:
    """The attempt that a draft without a text ends as."""
    return Attempt(draft, reject=Reject(draft.id(kind), f"{role}_{draft.failure}", draft.text, draft.text))


def turns(system_message: str, question: str, answer: str) -> tuple[Message, ...]:
    """A pair as messages, with the system line where there is one."""
    pair = (Message("user", question), Message("assistant", answer))
    return (Message("system", system_message), *pair) if system_message else pair
