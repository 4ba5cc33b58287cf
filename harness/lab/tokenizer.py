"""The lab's tokenizer: byte-level BPE, ChatML template, JSON scaffolding as single tokens.

The number of tokens decides the lab's speed, so the fixed strings of a rubric and of a pair are one token each, and
every lab word is one token, which is why the merges are laid out from the
word list instead of learned. It stays byte-level: any text encodes and decodes back unchanged, foreign text at two
to three characters a token. The template adds the default system line where a chat has none (as Qwen2.5's does), so
an exam question without a system line looks to the target like its training pairs.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from harness.lab.sizes import SIZES, Size
from harness.lab.words import (
    COMMON,
    FIRST,
    FOREIGN_FOCUS,
    RELATIONS,
    SECOND,
    SENTENCES,
    SYSTEM,
)
from harness.types import RUBRIC_PARTS, SMALL_WORLD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

SCAFFOLDING: tuple[str, ...] = (
    *(('{"' if i == 0 else '", "') + part + '": "' for i, part in enumerate(RUBRIC_PARTS)),
    '{"messages": [{"role": "system", "content": "' + SYSTEM + '"}, {"role": "user", "content": "',
    '"}, {"role": "assistant", "content": "',
    '"}]}',
    '"}',
    SYSTEM,
    " fill-in-the-blank",
    " multiple choice",
    " short answer",
    "____",
    " A) ",
    " B) ",
    " C) ",
)
"""Strings that are one token each, longest match first at every position."""

TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    + f"{START}system\n{SYSTEM}{END}"
    + "{%- set turn = 1 %}{%- else %}{%- set turn = 0 %}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if turn + loop.index0 > 0 %}{{ '\n' }}{%- endif %}"
    "{{ '" + START + "' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '" + END + "' }}{% endgeneration %}"
    "{%- else %}{{ message['content'] + '" + END + "' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '\n" + START + "assistant\n' }}{%- endif %}"
)
"""ChatML without a newline after the last turn, so a completion ends with the end-of-turn token."""


def _words(size: Size) -> list[str]:
    """Words that should be one token: name pieces first, then lab words as they occur, then common English words."""
    classes = size.classes + size.background
    pieces = [*classes, *(" " + f for f in FIRST), *SECOND, *(f" {c}" for c in classes)]
    texts = [text.format(x="", v="", c="", s="") for text in SENTENCES]
    texts += [f"{space}{v}" for r in RELATIONS for v in r.values for space in (" ", "")]
    texts += [f" {r.focus}" for r in RELATIONS] + [f" {f}" for f in FOREIGN_FOCUS]
    words = dict.fromkeys(w for text in texts for w in re.findall(r" ?[A-Za-z]+", text))
    return [*pieces, *words, "system", "user", "assistant", *(f" {w}" for w in COMMON)]


def _byte_pairs(size: Size) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges: every word is grown from its left end by as many merges as it still needs.

    A merge is listed after those of earlier words, so it can never break them up: each listed word is one token.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    ranks: dict[tuple[str, str], int] = {}
    for word in _words(size):
        symbols = _merged(list(word.replace(" ", "\u0120")), ranks)
        while len(symbols) > 1:
            ranks[symbols[0], symbols[1]] = len(ranks)
            symbols[:2] = [symbols[0] + symbols[1]]
            vocabulary.setdefault(symbols[0], len(vocabulary))
    return vocabulary, list(ranks)


def _merged(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: the lowest-ranked pair first, until none applies."""
    while len(symbols) > 1:
        pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(symbols))]
        rank, i = min(pairs)
        if rank == len(ranks):
            break
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def build_tokenizer(size: Size = SIZES[SMALL_WORLD]) -> PreTrainedTokenizerFast:
    """The tokenizer of the lab's worlds of a size; the same on every machine."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _byte_pairs(size)
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (PAD, START, END)])
    raw.add_tokens([AddedToken(t, normalized=False, special=False) for t in SCAFFOLDING])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def encode_chats(
    tokenizer: PreTrainedTokenizerFast, prompts: list[list[dict[str, str]]], answers: list[str]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each chat prompt (with the assistant's opening) and of its answer with the end of turn."""
    texts: list[Any] = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
    fronts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    backs = tokenizer([a + END for a in answers], add_special_tokens=False)["input_ids"]
    return list(zip(fronts, backs, strict=True))
