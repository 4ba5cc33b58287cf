"""The one interface behind which text is generated: transformers in-process, the extractive generator, servers.

A request carries both the rendered chat and the named prompt variables it was rendered from, so that a generator
that is not a language model can read the document and the rubric without parsing a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.models.forms import Form
from harness.types import Message


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding settings. `temperature` 0 means greedy; `max_tokens` bounds the completion."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One prompt: the chat to complete, and the variables (`document`, `domain`, rubric parts) it came from.

    `form` is the shape of the answer, for backends that can hold a model to one.
    """

    messages: tuple[Message, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    form: Form | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion; `finish_reason` is `stop`, `length`, or what else a server said.

    `failure` is a short code where a server gave no text for this request while it answered others; `text` then says
    what it gave instead. `calls` and the `extra_*` tokens count attempts that were billed in vain.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    failure: str = ""
    calls: int = 1
    extra_prompt_tokens: int = 0
    extra_completion_tokens: int = 0


class Backend(Protocol):
    """A generator of text. Equal requests, sampling and seed give equal completions on one machine."""

    @property
    def name(self) -> str:
        """The name that is recorded as `Sample.generator`: a model id, or the generator's own name."""

    @property
    def flops_per_token(self) -> float:
        """Forward floating-point operations per token (2 x parameters); 0 where there is no model."""

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        """Complete every request, in order. A failed service raises `StageError`; a failed request is a `failure`."""
