"""The one way a conversation becomes tokens, for warm-up, scoring, validation, fine-tuning, generation and tests alike.

The template's text is encoded without what a tokenizer would add by itself: a beginning token stands where the
template writes one. Loss falls on the last assistant turn only. The prompt's ids are those that a model is prompted
with; the answer's are what follows them when the whole conversation is encoded at once, so that a tokenizer which puts
a blank before words, or joins across lines, gives an answer the ids that it has in its place. Where a token would
reach over the boundary, the prompt's ids stand, since those are what a model answers to, and the answer is encoded
as the continuation of a text (see `_continued`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.training import literal
from harness.training.template import control_tokens, render_answered, render_prompt, traits
from harness.types import Message

ANCHORS = ("\n", ".", ":", ")", ">", "a", "0")
"""What an answer is encoded after, where it cannot be encoded after its own prompt: the first that it does not join."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one conversation; the first `prompt_length` carry no loss.

    `truncated` counts tokens cut from the end; when nothing of the completion is left the item cannot be scored.
    """

    ids: tuple[int, ...]
    prompt_length: int
    truncated: int = 0

    @property
    def completion_length(self) -> int:
        """Number of tokens that carry loss."""
        return max(0, len(self.ids) - self.prompt_length)

    @property
    def counts(self) -> dict[str, float]:
        """Tokens that carry loss and tokens that were cut, as the parts of a score name them."""
        return {"completion_tokens": float(self.completion_length), "truncated_tokens": float(self.truncated)}


def encode(tokenizer: Any, messages: Sequence[Message], max_length: int, *, closed: bool = True) -> Encoded:
    """Tokenise a conversation that ends with an assistant turn, cut at `max_length` tokens.

    With `closed=False` without what the template writes after that turn. Raises `PrerequisiteError` for a conversation
    that the template refuses.
    """
    prompt, answer = render_answered(tokenizer, messages)
    if not closed:
        answer = answer.removesuffix(traits(tokenizer).closing)
    head = tokenize(tokenizer, prompt)
    ids = [*head, *_continued(tokenizer, prompt, head, answer)]
    return Encoded(tuple(ids[:max_length]), min(len(head), max_length), max(0, len(ids) - max_length))


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Ids of the chat that a model is to answer, the opening of its answer included."""
    return tokenize(tokenizer, render_prompt(tokenizer, messages))


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that `template` rendered."""
    return literal.tokenize_marked(tokenizer, text, control_tokens(tokenizer))


def _continued(tokenizer: Any, prompt: str, head: Sequence[int], answer: str) -> list[int]:
    """Ids of `answer` after `prompt`, whose ids are `head`.

    Where the ids of both together do not begin with `head`: the answer's own, after an anchor if the tokenizer would
    put a blank before a text that begins with it.
    """
    whole = tokenize(tokenizer, prompt + answer)
    if whole[: len(head)] == list(head):
        return whole[len(head) :]
    if _adds_blank(tokenizer):
        for anchor in ANCHORS:
            before, both = tokenize(tokenizer, anchor), tokenize(tokenizer, anchor + answer)
            if both[: len(before)] == before:
                return both[len(before) :]
    return tokenize(tokenizer, answer)


def _adds_blank(tokenizer: Any) -> bool:
    """Whether a text gets a blank before its first word."""
    first: str = tokenizer.convert_ids_to_tokens(tokenize(tokenizer, "a"))[0]
    return first.startswith(("\u2581", "\u0120"))
