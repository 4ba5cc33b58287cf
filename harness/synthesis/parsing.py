"""JSON out of free text: what a model wrote, reduced to the first JSON object in it.

Models think aloud, wrap JSON in code fences and go on talking after it; none of that makes an object invalid. Nothing
is repaired: an object that does not parse is a reject, because a repaired pair is one that nobody wrote. The single
exception is line breaks inside strings, which JSON forbids and models write, and whose meaning is not in doubt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_THOUGHT_OPENS, _THOUGHT_ENDS = "<think>", "</think>"
_MAX_STARTS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a text could not be used: a reason code and, in words, what was found."""

    reason: str
    detail: str = ""


def after_thinking(text: str) -> str:
    """What follows the last closed thought; nothing where a thought was opened and never closed."""
    if _THOUGHT_ENDS in text:
        return text.rpartition(_THOUGHT_ENDS)[2]
    return "" if text.lstrip().startswith(_THOUGHT_OPENS) else text


def first_json_object(text: str) -> dict[str, Any] | None:
    """The first balanced JSON object of `text` that parses, after any thought; None where there is none.

    At most 200 opening braces are tried, which bounds the time spent on text that is all braces.
    """
    body = after_thinking(text)
    decoder = json.JSONDecoder(strict=False)
    start = body.find("{")
    for _ in range(_MAX_STARTS):
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(body, start)
        except (ValueError, RecursionError):
            start = body.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON escapes can smuggle in halves of surrogate pairs."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
