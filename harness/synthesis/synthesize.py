"""Seed → rubric → pair: the trajectory that every driver runs, in training and in regeneration alike.

A failed step is a reject with its reason and raw text, never a placeholder: an invalid pair is not scored and not
trained on. Prompts that do not fit the model have their document shortened, which is counted, since a silent cut would
change what a method sees.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config_validity import ValiditySettings
from harness.errors import ConfigError
from harness.models.backend import Backend, Completion, PromptRequest, Sampling
from harness.models.prompts import Prompt
from harness.synthesis.forms import PAIR_FORM, RUBRIC_FORM
from harness.synthesis.parsing import Failure, mends
from harness.synthesis.rubric import question_type
from harness.synthesis.validity import check_pair
from harness.synthesis.wording import WORDINGS, Wording
from harness.types import Message, Reject, Rubric, Sample, Seed, Usage, derive_seed, stable_hash

_LONGEST_WORD = 40
"""Characters; a longer stretch without a space is not a word but a script that has none."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One planned trajectory: a seed, and the number of the draw among those of the same seed."""

    seed: Seed
    rollout: int
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A writer's output for a draw; `shortened` where the writer saw only the beginning of the document.

    `failure` is the code of a request that the writer's server gave no text for; `text` then holds the detail.
    """

    draw: Draw
    text: str
    finish_reason: str
    shortened: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a draft: a rubric where it parsed, and a sample or the reject that ended it."""

    draft: Draft
    rubric: Rubric | None = None
    sample: Sample | None = None
    reject: Reject | None = None
    question_type: str = ""


@dataclass(frozen=True, slots=True)
class Prompting:
    """The two prompts of a method, what fills them beside the document, and how their answers are read."""

    writer: Prompt
    generator: Prompt
    system_message: str
    wording: Wording = WORDINGS["full"]

    @property
    def hash(self) -> str:
        """Hash of both prompt files, the system line, and the wording where it is not the full one."""
        how = [] if self.wording.json else [self.wording.name]
        return stable_hash(self.writer.hash, self.generator.hash, self.system_message, *how)


@dataclass
class Counter:
    """Cost of backend calls, by role, and how many draws had their document shortened for the writer or generator.

    `mended` draws had single backslashes of LaTeX doubled in what either wrote.
    """

    usage: list[Usage] = field(default_factory=list)
    shortened: int = 0
    mended: int = 0

    def add(self, role: str, backend: Backend, completions: Sequence[Completion], seconds: float) -> None:
        """Record one batch of completions, and the calls for them that were billed in vain."""
        prompt = sum(c.prompt_tokens + c.extra_prompt_tokens for c in completions)
        completion = sum(c.completion_tokens + c.extra_completion_tokens for c in completions)
        flops = backend.flops_per_token * (prompt + completion)
        calls = sum(c.calls for c in completions)
        self.usage.append(Usage(role, backend.name, prompt, completion, calls, seconds, flops))


def document_of(seed: Seed) -> str:
    """A seed's document; a conversation is written out turn by turn."""
    if seed.text is not None:
        return seed.text
    return "\n\n".join(f"{m.role}: {m.content}" for m in seed.messages or ())


def fit(
    prompt: Prompt, variables: Mapping[str, str], backend: Backend, sampling: Sampling
) -> tuple[tuple[Message, ...], bool]:
    """Render `prompt`, with only as much of the document as leaves room for the completion, and whether it was cut.

    The cut is between words where there are any. Raises `ConfigError` where the prompt alone leaves no room.
    """
    messages = prompt.render(variables)
    count, room = getattr(backend, "count_tokens", None), getattr(backend, "room", None)
    if count is None or room is None or count(messages) <= room(sampling):
        return messages, False
    document = variables["document"]
    low, high = 0, len(document)
    while low < high:
        middle = (low + high + 1) // 2
        if count(prompt.render({**variables, "document": document[:middle]})) <= room(sampling):
            low = middle
        else:
            high = middle - 1
    kept = _whole_words(document, low)
    if not kept:
        raise ConfigError(
            f"prompt file {prompt.path} leaves no room for a document: {backend.name} takes {room(sampling)} prompt "
            f"tokens beside a completion of {sampling.max_tokens}; raise its max_length, or lower max_tokens"
        )
    return prompt.render({**variables, "document": kept}), True


def _whole_words(text: str, length: int) -> str:
    """The first `length` characters, less a word that they break; not every script puts spaces between words."""
    head = text[:length]
    if length < len(text) and not text[length].isspace():
        space = max(head.rfind(" "), head.rfind("\n"))
        head = head[:space] if space > length - _LONGEST_WORD else head
    return head.rstrip()


class Synthesizer:
    """Runs trajectories with one generator, one pair of prompts and one set of validity checks."""

    def __init__(self, generator: Backend, prompting: Prompting, validity: ValiditySettings) -> None:
        self.generator, self.prompting, self.validity = generator, prompting, validity

    def writer_messages(self, seed: Seed, writer: Backend, sampling: Sampling) -> tuple[tuple[Message, ...], bool]:
        """The writer's prompt for a seed, and whether its document had to be shortened."""
        return fit(self.prompting.writer, {"document": document_of(seed), "domain": seed.domain}, writer, sampling)

    def write(
        self, writer: Backend, draws: Sequence[Draw], sampling: Sampling, seed: int, counter: Counter
    ) -> list[Draft]:
        """Let the writer draft a rubric for every draw."""
        started = time.perf_counter()
        requests, cuts = [], []
        for draw in draws:
            messages, cut = self.writer_messages(draw.seed, writer, sampling)
            cuts.append(cut)
            variables = {"document": document_of(draw.seed), "domain": draw.seed.domain}
            requests.append(PromptRequest(messages, variables, RUBRIC_FORM if self.prompting.wording.json else None))
        completions = writer.generate(requests, sampling, derive_seed(seed, "writer"))
        counter.add("writer", writer, completions, time.perf_counter() - started)
        return [
            Draft(d, c.text, c.finish_reason, cut, c.failure)
            for d, c, cut in zip(draws, completions, cuts, strict=True)
        ]

    def realise(self, drafts: Sequence[Draft], sampling: Sampling, seed: int, counter: Counter) -> list[Attempt]:
        """Turn drafts into pairs: parse, generate, parse, check. One attempt per draft, in order."""
        started = time.perf_counter()
        attempts = [_read_rubric(draft, self.prompting.wording) for draft in drafts]
        ready = [i for i, a in enumerate(attempts) if a.rubric is not None]
        fitted = {i: self._request(attempts[i], sampling) for i in ready}
        requests = [fitted[i][0] for i in ready]
        counter.shortened += sum(d.shortened or (i in fitted and fitted[i][1]) for i, d in enumerate(drafts))
        completions = self.generator.generate(requests, sampling, derive_seed(seed, "generator"))
        counter.add("generator", self.generator, completions, time.perf_counter() - started)
        texts = [draft.text for draft in drafts]
        for i, completion in zip(ready, completions, strict=True):
            attempts[i] = self._read_pair(attempts[i], completion)
            texts[i] = completion.text if mends(completion.text) else texts[i]
        counter.mended += sum(map(mends, texts))
        return attempts

    def _request(self, attempt: Attempt, sampling: Sampling) -> tuple[PromptRequest, bool]:
        """The generator's request, and whether its document had to be shortened."""
        assert attempt.rubric is not None
        seed = attempt.draft.draw.seed
        variables = {
            "document": document_of(seed),
            "domain": seed.domain,
            "system_message": self.prompting.system_message,
            **attempt.rubric.parts,
        }
        messages, cut = fit(self.prompting.generator, variables, self.generator, sampling)
        return PromptRequest(messages, variables, PAIR_FORM if self.prompting.wording.json else None), cut

    def _read_pair(self, attempt: Attempt, completion: Completion) -> Attempt:
        draft, rubric = attempt.draft, attempt.rubric
        assert rubric is not None
        sample_id = stable_hash("sample", rubric.id, completion.text)
        if completion.failure:
            parsed: Any = Failure(f"generator_{completion.failure}", completion.text)
        else:
            read = self.prompting.wording.read_pair
            parsed = read(completion.text, completion.finish_reason, self.prompting.system_message)
        if isinstance(parsed, Failure):
            reject = Reject(sample_id, parsed.reason, completion.text, parsed.detail)
            return Attempt(draft, rubric, None, reject, attempt.question_type)
        verdict = check_pair(
            parsed,
            document=document_of(draft.draw.seed),
            question_type=attempt.question_type or None,
            settings=self.validity,
        )
        if not verdict.valid:
            reject = Reject(sample_id, verdict.reason, completion.text, verdict.detail)
            return Attempt(draft, rubric, None, reject, attempt.question_type)
        sample = Sample(
            id=sample_id,
            seed_ids=(draft.draw.seed.id,),
            rubric_id=rubric.id,
            prompt_hash=self.prompting.hash,
            messages=parsed,
            raw=completion.text,
            generator=self.generator.name,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            rollout=draft.draw.rollout,
        )
        return Attempt(draft, rubric, sample, None, attempt.question_type)


def _read_rubric(draft: Draft, wording: Wording) -> Attempt:
    draw = draft.draw
    rubric_id = stable_hash("rubric", draw.seed.id, draw.origin, draw.rollout, draft.text)
    if draft.failure:
        return Attempt(draft, reject=Reject(rubric_id, f"writer_{draft.failure}", draft.text, draft.text))
    parsed = wording.read_rubric(draft.text, draft.finish_reason)
    if isinstance(parsed, Failure):
        return Attempt(draft, None, None, Reject(rubric_id, parsed.reason, draft.text, parsed.detail))
    return Attempt(
        draft, Rubric(rubric_id, draw.seed.id, draft.text, parsed), question_type=question_type(parsed) or ""
    )
