"""Conversations out of rows, however they are written down.

A conversation is a list of turns with a role (`role`, `from`, `speaker`) and a text (`content`, `value`, `text`), the
same as columns (a mapping of two lists), or either as a JSON string, which is what a detour over CSV leaves. Roles have
many spellings: those that are known are named here, and any other stands across from the known one.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.synthesis.json_rows import parse
from harness.types import Message

CONVERSATION_FIELDS = ("messages", "conversations", "conversation")
"""Fields that hold a conversation, in the order in which they are looked for."""

_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text")
_SYSTEM = re.compile(r"system|developer|context")
_USER = re.compile(
    r"user|human|prompter|question(er)?|asker|instruction|customer|patient|student|client|ipython|environment"
    r"|observation|input|(tool|function)(.(response|result|output)s?)?"
)
_ASSISTANT = re.compile(
    r"assistant.*|.*gpt.*|.*bot|model.*|bing.*|bard|ai|llm|claude.*|gemini.*|llama.*|answer(er)?|response|doctor"
    r"|tutor|teacher|output|completion|agent|(tool|function).calls?"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: its role as `system`, `user` or `assistant`, its text, and what else the turn holds."""

    role: str
    text: str
    rest: Mapping[str, Any] = field(default_factory=dict)


def find_turns(value: Any) -> tuple[Turn, ...] | None:
    """The turns of `value`, or None where it is no conversation. Turns without a text have ""."""
    if isinstance(value, str):
        value = parsed(value)
    if isinstance(value, Mapping):
        value = _from_columns(value)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return None
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for turn in value:
        if not isinstance(turn, Mapping):
            return None
        role_key = next((key for key in _ROLE_KEYS if isinstance(turn.get(key), str)), "")
        if not role_key:
            return None
        text_key = next((k for k in _TEXT_KEYS if k in turn), "")
        text, other = _text(turn.get(text_key))
        rest = {k: v for k, v in turn.items() if k not in (role_key, text_key)}
        found.append((turn[role_key], text, {**rest, **({text_key: other} if other else {})}))
    roles = _roles([role for role, _, _ in found])
    return tuple(Turn(role, text, rest) for role, (_, text, rest) in zip(roles, found, strict=True))


def find_messages(value: Any) -> tuple[Message, ...] | None:
    """The turns of `value` that have a text, as chat messages; None where it is no conversation, or none has one."""
    turns = find_turns(value)
    return tuple(Message(turn.role, turn.text) for turn in turns or () if turn.text) or None


def parsed(text: str) -> Any:
    """The text for which a JSON string (or Python's own notation of it) stands; `text` itself where it is neither."""
    if text.lstrip()[:1] not in ("[", "{") or text.rstrip()[-1:] not in ("]", "}"):
        return text
    try:
        return parse(text)
    except ValueError:
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _from_columns(value: Mapping[str, Any]) -> Any:
    """Turns out of parallel lists, as `datasets` gives a sequence of structs."""
    role_key = next((k for k in _ROLE_KEYS if isinstance(value.get(k), (list, tuple))), "")
    lists = {k: v for k, v in value.items() if isinstance(v, (list, tuple))}
    if not role_key or len({len(v) for v in lists.values()}) != 1 or len(lists) < 2:
        return None
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _text(value: Any) -> tuple[str, Any]:
    """The text of a turn, and what of its content is none: parts that are no text, such as images or thoughts."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        return "", None
    texts: list[str] = []
    others = []
    for part in value:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            texts.append(text)
        elif part is not None:
            others.append(part)
    return "\n".join(texts), others


def _roles(names: Sequence[str]) -> list[str]:
    """The roles that `names` mean. A name that is not known stands across from the known one, else turns alternate."""
    known = [_known(name) for name in names]
    if "user" in known:
        other = {name: "assistant" for name in names}
    elif "assistant" in known:
        other = {name: "user" for name in names}
    else:
        first = next((name for name, role in zip(names, known, strict=True) if not role), "")
        other = {name: "user" if name == first else "assistant" for name in names}
    return [role or other[name] for name, role in zip(names, known, strict=True)]


def _known(name: str) -> str:
    lowered = name.strip().lower()
    for role, pattern in (("system", _SYSTEM), ("user", _USER), ("assistant", _ASSISTANT)):
        if pattern.fullmatch(lowered):
            return role
    return ""
