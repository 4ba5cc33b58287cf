"""Special tokens that are written out in a turn's text, kept apart from those that a chat template writes.

A tokenizer takes every `<|im_end|>` for the end of a turn, whoever wrote it. So that what stands in a question, an
answer or a document stays text, an occurrence there is replaced by a mark (two noncharacters of Unicode around a
number) before the template is rendered; `tokenize_marked` turns marks back into text and encodes that text as any
other. Text without such occurrences is encoded by the tokenizer as it is, to the same ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around the number of a special token that is meant as text."""
FIRST, LAST = "\ufdd2", "\ufdd3"
"""Around the number of a special token that is meant as such, in the tokenizer that reads marked text."""

_SHADOWS: WeakKeyDictionary[Any, tuple[tuple[str, ...], Any, dict[int, int]]] = WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts that the tokenizer itself takes for special tokens, longest first."""
    named = {str(t) for t in tokenizer.all_special_tokens}
    return longest_first(t.content for t in tokenizer.added_tokens_decoder.values() if t.special or t.content in named)


def longest_first(tokens: Iterable[str]) -> tuple[str, ...]:
    """Without empty ones and doubles, in the order in which overlapping ones are to be tried."""
    return tuple(sorted({t for t in tokens if t}, key=lambda t: (-len(t), t)))


def mark(text: str, tokens: Sequence[str]) -> str:
    """`text` with every one of `tokens` in it replaced by its mark."""
    if not any(t in text for t in tokens):
        return text
    return _pattern(tuple(tokens)).sub(lambda m: f"{OPEN}{tokens.index(m.group())}{CLOSE}", text)


def unmark(text: str, tokens: Sequence[str]) -> str:
    """The inverse of `mark`; numbers that stand for no token stay."""

    def token(match: re.Match[str]) -> str:
        number = int(match.group(1))
        return tokens[number] if number < len(tokens) else match.group()

    return re.sub(f"{OPEN}([0-9]{{1,6}}){CLOSE}", token, text)


def neutralise(text: str, tokens: Sequence[str]) -> str:
    """`text` with a blank after the first character of every one of `tokens` in it, for a server that encodes it.

    A server is sent text, which its own tokenizer reads; a token of one character cannot be broken and is left out.
    """
    while any(t in text for t in tokens):
        text = _pattern(tuple(tokens)).sub(lambda m: f"{m.group()[0]} {m.group()[1:]}" if m.group()[1:] else "", text)
    return text


def tokenize_marked(tokenizer: Any, text: str, tokens: Sequence[str], *, add_special_tokens: bool = False) -> list[int]:
    """Ids of text that was marked for `tokens`: those of a template as tokens, those that are marked as text."""
    if OPEN not in text:
        return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    tokens = tuple(tokens)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return _piecewise(tokenizer, text, tokens)
    raised = _pattern(tokens).sub(lambda m: f"{FIRST}{tokens.index(m.group())}{LAST}", text)
    shadow, ids = _shadow(tokenizer, tokens)
    found = shadow.encode(unmark(raised, tokens), add_special_tokens=add_special_tokens).ids
    return [ids.get(i, i) for i in found]


def _piecewise(tokenizer: Any, text: str, tokens: tuple[str, ...]) -> list[int]:
    """For tokenizers written in Python, which encode the text between special tokens piece by piece themselves."""
    ids: list[int] = []
    for piece in re.split(f"({_pattern(tokens).pattern})", text):
        if piece in tokens:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            plain = unmark(piece, tokens)
            ids += tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _shadow(tokenizer: Any, tokens: tuple[str, ...]) -> tuple[Any, dict[int, int]]:
    """The tokenizer with other names for `tokens`, and its ids of added tokens by the shadow's own.

    Renamed in the vocabulary too, where they stand there: a model of words or pieces would find them again.
    """
    from tokenizers import Tokenizer

    known = _SHADOWS.get(tokenizer)
    if known is not None and known[0] == tokens:
        return known[1], known[2]
    renamed = {token: f"{FIRST}{i}{LAST}" for i, token in enumerate(tokens)}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    added = {}
    for token in state["added_tokens"]:
        name = renamed.get(token["content"], token["content"])
        added[name] = token["id"]
        if name != token["content"]:
            token |= {"content": name, "normalized": False}
    model = state["model"]
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {renamed.get(word, word): i for word, i in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):
        model["vocab"] = [[renamed.get(word, word), score] for word, score in model["vocab"]]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    shadow: Any = Tokenizer.from_str(json.dumps(state))
    ids = {shadow.token_to_id(name): own for name, own in added.items()}
    _SHADOWS[tokenizer] = (tokens, shadow, ids)
    return shadow, ids


@lru_cache(maxsize=64)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(t) for t in tokens) or r"(?!)")
