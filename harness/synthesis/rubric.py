"""The writer's output as a rubric: four parts, all of them there, or a reject with its reason.

The published code takes any JSON object and fills missing parts with empty strings, so a writer is rewarded for half a
rubric. Here all four parts must be non-empty strings. Other keys are dropped: they reach no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from harness.synthesis.parsing import Failure, Found, control_character, is_unicode, plain_lines, read_object
from harness.types import RUBRIC_PARTS

RUBRIC_NO_JSON = "rubric_no_json"
RUBRIC_BAD_ESCAPE = "rubric_bad_escape"
RUBRIC_CONTROL_CHARACTER = "rubric_control_character"
RUBRIC_MISSING_PART = "rubric_missing_part"
RUBRIC_BAD_TYPE = "rubric_bad_type"
RUBRIC_TRUNCATED = "rubric_truncated"

RUBRIC_REASONS: Mapping[str, str] = MappingProxyType(
    {
        RUBRIC_NO_JSON: "no JSON object in the writer's output",
        RUBRIC_BAD_ESCAPE: "the JSON holds a backslash that JSON does not know and that is not plainly LaTeX",
        RUBRIC_CONTROL_CHARACTER: "one of the four parts holds a control character other than newline and tab",
        RUBRIC_MISSING_PART: "one of the four parts is missing or empty",
        RUBRIC_BAD_TYPE: "one of the four parts is not a string of valid Unicode",
        RUBRIC_TRUNCATED: "the output hit the token limit before the rubric was complete",
    }
)
"""Reason codes of rejected rubrics, with what each means."""

# The names as the prompt gives them, and the spellings that models make of them.
_TYPE_PATTERNS = {
    "multiple choice": r"multiple[\s_-]*choices?|\bMCQs?\b",
    "fill-in-the-blank": r"fill(?:ing)?[\s_-]*in[\s_-]*(?:the[\s_-]*)?blanks?|\bcloze\b",
    "short answer": r"short[\s_-]*answers?",
    "essay": r"\bessays?\b",
}
_TYPE_SEARCH = re.compile(
    "|".join(f"(?P<t{i}>{pattern})" for i, pattern in enumerate(_TYPE_PATTERNS.values())), re.IGNORECASE
)
_NEGATED = re.compile(
    r"(?:\bnot|\bno|\bnever|\bavoid|\brather than|\binstead of|n't)\s+(?:be\s+|use\s+)?(?:an?\s+)?$", re.IGNORECASE
)


def parse_rubric(text: str, finish_reason: str = "stop") -> Mapping[str, str] | Failure:
    """The four parts of a rubric (keys: `RUBRIC_PARTS`, in that order, values stripped), or why there are none.

    A thought at the beginning is ignored, then the first JSON object that parses is taken (OptimSyn,
    arXiv 2604.00536, Fig. 13, for the keys). `finish_reason` is the completion's.
    """
    found = _parts(read_object(text))
    if isinstance(found, Failure) and finish_reason == "length":
        return Failure(RUBRIC_TRUNCATED, found.detail)
    return found


def question_type(parts: Mapping[str, str]) -> str | None:
    """The question type that a rubric names, one of `QUESTION_TYPES`; None where it names none.

    The parts are read in their order, so the question's own part decides before the others; inside a part the first
    mention that is not negated ("not an essay") counts.
    """
    names = tuple(_TYPE_PATTERNS)
    for part in RUBRIC_PARTS:
        text = parts.get(part, "")
        for match in _TYPE_SEARCH.finditer(text):
            if not _NEGATED.search(text[max(0, match.start() - 30) : match.start()]):
                return names[int(str(match.lastgroup)[1:])]
    return None


def _parts(found: Found) -> Mapping[str, str] | Failure:
    value = found.value
    if value is None:
        if found.escape:
            return Failure(RUBRIC_BAD_ESCAPE, f"'{found.escape}' is no escape of JSON; a backslash is written as two")
        return Failure(RUBRIC_NO_JSON, "no JSON object that parses")
    parts: dict[str, str] = {}
    for part in RUBRIC_PARTS:
        if part not in value:
            return Failure(RUBRIC_MISSING_PART, f"no '{part}'; keys: {', '.join(sorted(value)) or 'none'}"[:300])
        content = value[part]
        if not isinstance(content, str):
            return Failure(RUBRIC_BAD_TYPE, f"'{part}' is of type {type(content).__name__}")
        if not is_unicode(content):
            return Failure(RUBRIC_BAD_TYPE, f"'{part}' is not valid Unicode")
        content = plain_lines(content)
        if character := control_character(content):
            return Failure(RUBRIC_CONTROL_CHARACTER, f"'{part}' holds {character}")
        if not content.strip():
            return Failure(RUBRIC_MISSING_PART, f"'{part}' is empty")
        parts[part] = content.strip()
    return parts
