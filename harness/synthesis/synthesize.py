"""Seed → draft → pair: the trajectory that every driver runs, in training and in regeneration alike.

What is asked and how it is read is the route's (`harness.synthesis.route`); here is what all routes share: the calls,
their account, and prompts that do not fit the model. Those have their document shortened, which is counted, since a
silent cut would change what a method sees.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import ConfigError
from harness.models.backend import Backend, Completion, PromptRequest, Sampling
from harness.models.prompts import Prompt
from harness.synthesis.parsing import mends
from harness.synthesis.route import Asked, Attempt, Draft, Draw, Route, document_of
from harness.types import Message, Seed, Usage, derive_seed

_LONGEST_WORD = 40
"""Characters; a longer stretch without a space is not a word but a script that has none."""


@dataclass
class Counter:
    """Cost of backend calls, by role, and how many draws had their document shortened on the way.

    `mended` draws had single backslashes of LaTeX doubled in what was written.
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
        self.usage.append(
            Usage(
                role=role,
                model=backend.name,
                prompt_tokens=prompt,
                completion_tokens=completion,
                calls=calls,
                seconds=seconds,
                flops=flops,
            )
        )


def fit(
    prompt: Prompt, variables: Mapping[str, str], backend: Backend, sampling: Sampling, cut: str = "document"
) -> tuple[tuple[Message, ...], bool]:
    """Render `prompt`, with only as much of the variable `cut` as leaves room for the completion, and whether it was.

    The cut is between words where there are any. Raises `ConfigError` where the prompt alone leaves no room.
    """
    messages = prompt.render(variables)
    count, room = getattr(backend, "count_tokens", None), getattr(backend, "room", None)
    if count is None or room is None or count(messages) <= room(sampling):
        return messages, False
    text = variables[cut]
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(prompt.render({**variables, cut: text[:middle]})) <= room(sampling):
            low = middle
        else:
            high = middle - 1
    kept = _whole_words(text, low)
    if not kept:
        what = "a document" if cut == "document" else f"the {cut}"
        raise ConfigError(
            f"prompt file {prompt.path} leaves no room for {what}: {backend.name} takes {room(sampling)} prompt "
            f"tokens beside a completion of {sampling.max_tokens}; raise its max_length, or lower max_tokens"
        )
    return prompt.render({**variables, cut: kept}), True


def _whole_words(text: str, length: int) -> str:
    """The first `length` characters, less a word that they break; not every script puts spaces between words."""
    head = text[:length]
    if length < len(text) and not text[length].isspace():
        space = max(head.rfind(" "), head.rfind("\n"))
        head = head[:space] if space > length - _LONGEST_WORD else head
    return head.rstrip()


class Synthesizer:
    """Runs trajectories of one route. `rest` answers for the role that is asked after the draft, if there is one."""

    def __init__(self, route: Route[Any], rest: Backend | None) -> None:
        self.route, self.rest = route, rest

    def messages(self, seed: Seed, drafter: Backend, sampling: Sampling) -> tuple[tuple[Message, ...], bool]:
        """The drafting model's prompt for a seed, and whether its document had to be shortened."""
        return _fitted(self.route.ask(seed), drafter, sampling)

    def write(
        self, drafter: Backend | None, draws: Sequence[Draw], sampling: Sampling | None, seed: int, counter: Counter
    ) -> list[Draft]:
        """Let the drafting model write a draft for every draw; without one a draft is the seed as it is."""
        if drafter is None or sampling is None:
            return [Draft(draw, document_of(draw.seed), "stop", model=draw.seed.source) for draw in draws]
        started = time.perf_counter()
        requests, cuts = [], []
        for draw in draws:
            asked = self.route.ask(draw.seed)
            messages, cut = _fitted(asked, drafter, sampling)
            cuts.append(cut)
            requests.append(PromptRequest(messages, asked.variables, asked.form))
        role = str(self.route.drafts)
        completions = drafter.generate(requests, sampling, derive_seed(seed, role))
        counter.add(role, drafter, completions, time.perf_counter() - started)
        return [
            Draft(
                draw=draw,
                text=c.text,
                finish_reason=c.finish_reason,
                shortened=cut,
                failure=c.failure,
                model=drafter.name,
                prompt_tokens=c.prompt_tokens,
                completion_tokens=c.completion_tokens,
            )
            for draw, c, cut in zip(draws, completions, cuts, strict=True)
        ]

    def realise(self, drafts: Sequence[Draft], sampling: Sampling | None, seed: int, counter: Counter) -> list[Attempt]:
        """Turn drafts into pairs: read, ask for the rest, read, check. One attempt per draft, in order."""
        started = time.perf_counter()
        attempts = [self.route.read(draft) for draft in drafts]
        texts = [draft.text for draft in drafts]
        cut = {i for i, d in enumerate(drafts) if d.shortened}
        if self.rest is not None and sampling is not None:
            role = self.route.answers or ""
            ready = [i for i, a in enumerate(attempts) if a.open]
            asked = [self.route.ask_rest(attempts[i]) for i in ready]
            fitted = [_fitted(a, self.rest, sampling) for a in asked]
            cut |= {i for i, (_, shorter) in zip(ready, fitted, strict=True) if shorter}
            requests = [PromptRequest(m, a.variables, a.form) for a, (m, _) in zip(asked, fitted, strict=True)]
            completions = self.rest.generate(requests, sampling, derive_seed(seed, role))
            counter.add(role, self.rest, completions, time.perf_counter() - started)
            for i, completion in zip(ready, completions, strict=True):
                attempts[i] = self.route.read_rest(attempts[i], completion, self.rest.name)
                texts[i] = completion.text if mends(completion.text) else texts[i]
        counter.shortened += len(cut)
        counter.mended += sum(map(mends, texts))
        return attempts


def _fitted(asked: Asked, backend: Backend, sampling: Sampling) -> tuple[tuple[Message, ...], bool]:
    return fit(asked.prompt, asked.variables, backend, sampling, asked.cut)
