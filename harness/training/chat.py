"""The one way a conversation becomes tokens, for warm-up, scoring, validation and fine-tuning alike.

Loss falls on the last assistant turn only: the prompt is the chat template's rendering of everything before it
with the generation prompt, the completion is the rest. A template whose rendering of the prompt is not a prefix of the
whole is refused, because the mask would then be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import PrerequisiteError
from harness.types import Message, chat, stable_hash


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


def require_template(tokenizer: Any, name: str) -> None:
    """Raise `PrerequisiteError` for a tokenizer without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise PrerequisiteError(
            f"the tokenizer of {name} has no chat template; use a model that ships one, or add chat_template.jinja to "
            "a local copy and pass its folder"
        )


def template_hash(tokenizer: Any) -> str:
    """Hash of the chat template, recorded with every run."""
    return stable_hash(tokenizer.chat_template)


def encode(tokenizer: Any, messages: Sequence[Message], max_length: int) -> Encoded:
    """Tokenise a conversation that ends with an assistant turn, cut at `max_length` tokens."""
    turns = chat(messages)
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    if not whole.startswith(prompt):
        raise PrerequisiteError(
            "the chat template renders the prompt differently once the answer follows; loss masks would be wrong. "
            "Use a template whose prompt is a prefix of the conversation"
        )
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(whole[len(prompt) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
    ids = [*head, *tail]
    return Encoded(tuple(ids[:max_length]), min(len(head), max_length), max(0, len(ids) - max_length))
