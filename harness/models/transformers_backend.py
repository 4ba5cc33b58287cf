"""Generation in-process with transformers: the path for tiny models, and the fallback for large ones.

A call is one batch, left-padded, sampled under its own random seed in a forked generator state, so that equal
calls give equal texts and the caller's random stream is not touched. What this gives up is throughput on large models,
where a server is the better choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.models.attention import share_keys
from harness.models.backend import Completion, PromptRequest, Sampling
from harness.models.prefix import attends_to_all, common_prefix, read_prefix
from harness.models.rope import apart_in_generation, forget_lengths, rope_switch
from harness.models.tokenizers import declare_stop, fit_padding, load_tokenizer, stop_ids
from harness.training.chat import prompt_ids
from harness.training.template import require_template
from harness.types import Message


def load_causal_lm(
    path: str | Path,
    dtype: str = "float32",
    revision: str | None = None,
    *,
    attention: str | None = None,
    place: bool = True,
) -> tuple[Any, Any]:
    """Model and tokenizer, on the GPU where there is one. Padding is on the left, for generation.

    The model stops where the tokenizer's chat template closes an assistant's turn, and so does what is saved of it.
    `attention` is transformers' attention implementation (its choice by default). A trainer that places the model
    itself, each process on its own device, passes `place=False`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    share_keys()
    tokenizer = load_tokenizer(path, revision)
    model = AutoModelForCausalLM.from_pretrained(
        path, revision=revision, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    forget_lengths(model)
    declare_stop(model, tokenizer)
    fit_padding(model, tokenizer)
    if place and torch.cuda.is_available():
        model.to("cuda")
    return model, tokenizer


@dataclass(frozen=True, slots=True)
class Decoded:
    """A completion's ids, the token that ended it included; not `ended` where it reached its limit."""

    ids: tuple[int, ...]
    ended: bool


def decode(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], max_tokens: int, **decoding: Any
) -> list[Decoded]:
    """Complete the prompts `rows`, given as ids, in one batch; `decoding` is what `model.generate` is told besides.

    What all rows begin with is read once where the model's attention allows it.
    """
    import torch

    shared = common_prefix(rows) if attends_to_all(model.config) else 0
    batch = left_padded(rows, tokenizer.pad_token_id, model.device, after=shared)
    with torch.inference_mode():
        if shared:
            decoding["past_key_values"] = read_prefix(model, rows[0][:shared], len(rows))
        output = model.generate(**batch, **decoding, max_new_tokens=max_tokens, pad_token_id=tokenizer.pad_token_id)
    stops = stop_ids(model, tokenizer)
    completions = []
    for row in output[:, batch["input_ids"].shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), None)
        completions.append(Decoded(tuple(row if end is None else row[: end + 1]), end is not None))
    return completions


class TransformersBackend:
    """Completes chats with a causal language model that is loaded at the first call."""

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        dtype: str = "float32",
        revision: str | None = None,
        max_length: int = 8192,
    ) -> None:
        self._path, self._name, self._dtype, self._revision = path, name, dtype, revision
        self._max_length = max_length
        self._loaded: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The model's name, as recorded with every sample."""
        return self._name

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            model, tokenizer = load_causal_lm(self._path, self._dtype, self._revision)
            require_template(tokenizer, self._name)
            self._loaded = (model.eval(), tokenizer)
        return self._loaded

    @property
    def flops_per_token(self) -> float:
        """2 x parameters."""
        return 2.0 * float(self._load()[0].num_parameters())

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Prompt tokens of a chat, generation prompt included."""
        return len(prompt_ids(self._load()[1], messages))

    def room(self, sampling: Sampling) -> int:
        """Most prompt tokens that leave room for the completion."""
        return self._max_length - sampling.max_tokens

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        """Complete every request, in one batch unless the model's RoPE keeps sequences of some lengths apart."""
        switch = rope_switch(self._load()[0].config)
        if switch is None:
            return self._together(requests, sampling, seed)
        totals = [self.count_tokens(r.messages) + sampling.max_tokens for r in requests]
        found: dict[int, Completion] = {}
        for number, group in enumerate(apart_in_generation(switch, totals)):
            done = self._together([requests[i] for i in group], sampling, seed + number)
            found |= dict(zip(group, done, strict=True))
        return [found[i] for i in range(len(requests))]

    def _together(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        import torch

        if not requests:
            return []
        model, tokenizer = self._load()
        rows = [prompt_ids(tokenizer, r.messages) for r in requests]
        decoding: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            decoding = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            found = decode(model, tokenizer, rows, sampling.max_tokens, **decoding)
        completions = []
        for row, done in zip(rows, found, strict=True):
            body = done.ids[:-1] if done.ended else done.ids
            completions.append(
                Completion(
                    text=tokenizer.decode(body, skip_special_tokens=True),
                    finish_reason="stop" if done.ended else "length",
                    prompt_tokens=len(row),
                    completion_tokens=len(done.ids),
                )
            )
        return completions


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any, after: int = 0) -> dict[str, Any]:
    """Rows of ids as `input_ids` and `attention_mask` [row, token], each of its longest row's width.

    Padding follows the first `after` tokens of every row.
    """
    import torch

    gaps = [max(map(len, rows)) - len(row) for row in rows]
    ids = [[*row[:after], *[pad] * gap, *row[after:]] for row, gap in zip(rows, gaps, strict=True)]
    mask = [[1] * after + [0] * gap + [1] * (len(row) - after) for row, gap in zip(rows, gaps, strict=True)]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
