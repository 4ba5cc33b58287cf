"""JSON out of free text: what a model wrote, reduced to the first JSON object in it.

Models think aloud, wrap JSON in code fences and go on talking after it; none of that makes an object invalid. An object
that does not parse is a reject, because a repaired pair is one that nobody wrote. There are two exceptions, whose
meaning is not in doubt: line breaks inside strings, which JSON forbids and models write, and LaTeX with one backslash
where JSON wants two (`latex`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.synthesis import latex
from harness.types import well_formed

_TAGS = "think|thinking|thought|reasoning"
_THOUGHT_OPENS = re.compile(rf"\s*(?:<(?:{_TAGS})>|\[THINK\])", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"</(?:{_TAGS})>|\[/THINK\]", re.IGNORECASE)
_ANSWER = re.compile(r"\s*(?:\{|```)")
_MAX_STARTS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a text could not be used: a reason code and, in words, what was found.

    Words that quote a model may hold half a character, which is written out here.
    """

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", well_formed(self.detail))


@dataclass(frozen=True, slots=True)
class Found:
    """The object of a text; None where there is none.

    `mended` backslashes of LaTeX in it were doubled. `escape` is the escape that JSON does not have, where that is what
    stands in the way.
    """

    value: dict[str, Any] | None
    mended: int = 0
    escape: str = ""


def after_thinking(text: str) -> str:
    """The text after the thought at the beginning of `text`; nothing where one was opened and never closed.

    The opening tag may be missing, since templates write it into the prompt. A closing tag inside a JSON object is
    text; of several others the thought ends at the one before the answer, else at the last.
    """
    opened = _THOUGHT_OPENS.match(text) is not None
    ends = [m.end() for m in _THOUGHT_ENDS.finditer(text)]
    if ends:
        objects = [(start, end) for start, end, value, *_ in _objects(text) if value is not None]
        ends = [e for e in ends if not any(start < e <= end for start, end in objects)]
    before_answer = next((e for e in ends if _ANSWER.match(text, e)), None)
    if before_answer is not None:
        return text[before_answer:]
    if not opened and _ANSWER.match(text):
        return text
    if ends:
        return text[ends[-1] :]
    return "" if opened else text


def read_object(text: str) -> Found:
    """The first balanced JSON object of `text` that parses, after any thought.

    At most 200 opening braces are tried, which bounds the time spent on text that is all braces.
    """
    body = after_thinking(text)
    for _, _, value, mended, escape in _objects(body):
        return Found(value, mended, escape)
    return Found(None)


def mends(text: str) -> bool:
    """Whether reading the object of `text` doubles single backslashes of LaTeX."""
    return "\\" in text and read_object(text).mended > 0


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, Any] | None, int, str]]:
    """Every outermost object: start, end, value, mended backslashes; at a bad escape the last, with that.

    Positions are those of `text` itself.
    """
    body, added = latex.mend(text) if "\\" in text else (text, [])
    decoder = json.JSONDecoder(strict=False)
    start = body.find("{")
    for _ in range(_MAX_STARTS):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(body, start)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and "escape" in error.msg:
                # Its parts would parse, and be taken for the whole.
                yield start - _up_to(added, start), len(text), None, 0, _escape_at(body, error.pos)
                return
            start = body.find("{", start + 1)
            continue
        before, inside = _up_to(added, start), _up_to(added, end)
        yield start - before, end - inside, value, inside - before, ""
        start = body.find("{", end)


def _up_to(positions: list[int], limit: int) -> int:
    return sum(p < limit for p in positions)


def _escape_at(text: str, position: int) -> str:
    """The escape at or just before a decoder's error, as a person would name it."""
    start = text.rfind("\\", 0, position + 1)
    found = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL).match(text, start)
    return found[0][:20] if found else ""


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON escapes can smuggle in halves of surrogate pairs."""
    return well_formed(text) == text


def plain_lines(text: str) -> str:
    """`text` with every line ending as a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def control_character(text: str) -> str:
    """The name of the first control character other than newline and tab; empty where there is none."""
    found = next((c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\t"), None)
    return f"U+{ord(found):04X}" if found else ""
