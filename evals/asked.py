"""An lm-eval model that encodes as training does: its choices are answers of a turn, its prompts those of `chat`.

Imports lm-eval and torch, so that only whoever evaluates imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from lm_eval.models.huggingface import HFLM

from harness.models.rope import apart_in_generation, by_side, rope_switch
from harness.models.transformers_backend import left_padded
from harness.training.chat import encode, tokenize
from harness.training.literal import mark, tokenize_marked
from harness.training.template import control_tokens, render_prompt, traits
from harness.types import Message

T = TypeVar("T")


class ChatHFLM(HFLM):
    """An HFLM that encodes as training does, and whose own progress bars are off: the caller reports progress."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._chats: dict[str, list[Message]] = {}

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As lm-eval's, without a progress bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, *arguments: Any, **named: Any) -> list[tuple[float, bool]]:
        """A batch's rows of one side of the boundary, where the model's RoPE depends on their lengths."""
        lengths = [min(len(context) + len(choice) - 1, self.max_length) for _, context, choice in requests]
        own = super()._loglikelihood_tokens
        groups = by_side(rope_switch(self.model.config), lengths)
        return _apart(requests, groups, lambda some: own(some, *arguments, **named))

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As lm-eval's, with batches on one side of the boundary where the model's RoPE depends on lengths."""
        switch = rope_switch(self.model.config)
        if switch is None:
            return super().generate_until(requests, disable_tqdm=True)
        longest = [r.args[1].get("max_gen_toks", self.max_gen_toks) for r in requests]
        totals = [len(self.tok_encode(r.args[0])) + n for r, n in zip(requests, longest, strict=True)]
        own = super().generate_until
        return _apart(requests, apart_in_generation(switch, totals), lambda some: own(some, disable_tqdm=True))

    @property
    def eot_token_id(self) -> int:
        """The token whose text ends an answer beside what a benchmark says; padding where there is none."""
        stop = traits(self.tokenizer).stop if self.tokenizer.chat_template else None
        ids = (stop, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return int(next(i for i in ids if i is not None))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text, rendered as in training; its turns are kept, so that it is encoded as there, too."""
        if not add_generation_prompt:
            return str(super().apply_chat_template(chat_history, add_generation_prompt=False))
        messages = [Message(turn["role"], turn["content"]) for turn in chat_history]
        text = render_prompt(self.tokenizer, messages)
        self._chats[text] = messages
        return text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text, as training encodes it; its last `left_truncate_len` where that is given."""
        ids = self._encode(string, add_special_tokens)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Any, Any]:
        """Ids and attention mask of a batch, [texts, longest text], padded on the left."""
        assert padding_side == "left" and not truncation
        batch = left_padded([self._encode(s, None) for s in strings], self.tokenizer.pad_token_id, None)
        start = -left_truncate_len if left_truncate_len else None
        return batch["input_ids"][:, start:], batch["attention_mask"][:, start:]

    def _encode(self, string: str, add_special_tokens: bool | None) -> list[int]:
        """A rendered chat as training encodes it; other text with what the tokenizer adds, its tokens as text."""
        if string in self._chats:
            return tokenize(self.tokenizer, string)
        controls = control_tokens(self.tokenizer)
        add = add_special_tokens is not False
        return tokenize_marked(self.tokenizer, mark(string, controls), controls, add_special_tokens=add)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a choice as the answer of its turn, without the turn's end.

        The choice begins where training's loss does. lm-eval counts blanks at the context's end to the choice,
        which adds the same to all of them and so tells nothing, but would dilute a mean over tokens.
        """
        if context not in self._chats:
            before, after = super()._encode_pair(context, continuation)
            return list(before), list(after)
        turns = [*self._chats[context], Message("assistant", continuation)]
        code = encode(self.tokenizer, turns, sys.maxsize, closed=False)
        return list(code.ids[: code.prompt_length]), list(code.ids[code.prompt_length :])


def _apart(
    requests: Sequence[Any], groups: Iterable[Sequence[int]], compute: Callable[[list[Any]], Sequence[T]]
) -> list[T]:
    """The result of `compute` for every request, in their order, group by group."""
    found: dict[int, T] = {}
    for rows in groups:
        found |= dict(zip(rows, compute([requests[i] for i in rows]), strict=True))
    return [found[i] for i in range(len(requests))]
