"""The generator's output as one question-answer pair in the `messages` form, or a reject with its reason.

The published code accepts any JSON object and later scores placeholders for those without `messages`; here what is not
exactly one question with one answer is a reject that keeps its raw text. Text after the first object is ignored, as
is an output's second pair: one pair was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from harness.synthesis.parsing import Failure, Found, control_character, is_unicode, plain_lines, read_object
from harness.types import Message

PAIR_NO_JSON = "pair_no_json"
PAIR_BAD_ESCAPE = "pair_bad_escape"
PAIR_CONTROL_CHARACTER = "pair_control_character"
PAIR_SCHEMA = "pair_schema"
PAIR_ROLES = "pair_roles"
PAIR_EMPTY = "pair_empty"
PAIR_TRUNCATED = "pair_truncated"

PAIR_REASONS: Mapping[str, str] = MappingProxyType(
    {
        PAIR_NO_JSON: "no JSON object in the generator's output",
        PAIR_BAD_ESCAPE: "the JSON holds a backslash that JSON does not know and that is not plainly LaTeX",
        PAIR_CONTROL_CHARACTER: "a turn holds a control character other than newline and tab",
        PAIR_SCHEMA: "the object has no list of messages with a role and a content of valid text",
        PAIR_ROLES: "the turns are not one question (user) and one answer (assistant), with or without a system turn",
        PAIR_EMPTY: "a turn is empty or still holds the prompt's placeholder",
        PAIR_TRUNCATED: "the output hit the token limit before the pair was complete",
    }
)
"""Reason codes of rejected pairs, with what each means."""

_ROLES = (("user", "assistant"), ("system", "user", "assistant"))
_PLACEHOLDERS = frozenset({"question", "answer", "<question>", "<answer>", "...", "…"})


def parse_pair(text: str, finish_reason: str = "stop") -> tuple[Message, ...] | Failure:
    """The turns of the pair that `text` holds (contents stripped), or why there is none.

    Thoughts and code fences around the JSON are ignored, and single backslashes of LaTeX are doubled. `finish_reason`
    is the completion's.
    """
    found = _messages(read_object(text))
    if isinstance(found, Failure) and finish_reason == "length":
        return Failure(PAIR_TRUNCATED, found.detail)
    return found


def _messages(found: Found) -> tuple[Message, ...] | Failure:
    value = found.value
    if value is None:
        if found.escape:
            return Failure(PAIR_BAD_ESCAPE, f"'{found.escape}' is no escape of JSON; a backslash is written as two")
        return Failure(PAIR_NO_JSON, "no JSON object that parses")
    turns = value.get("messages")
    if not isinstance(turns, list):
        if isinstance(value.get("error"), str):
            return Failure(PAIR_SCHEMA, f"the generator says: {value['error']}"[:300])
        keys = ", ".join(sorted(value)) or "none"
        return Failure(PAIR_SCHEMA, f"no list 'messages'; keys: {keys}"[:300])
    messages = []
    for number, turn in enumerate(turns, 1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            return Failure(PAIR_SCHEMA, f"turn {number} lacks a role or a content that is a string")
        if not is_unicode(role + content):
            return Failure(PAIR_SCHEMA, f"turn {number} is not valid Unicode")
        content = plain_lines(content)
        if character := control_character(content):
            return Failure(PAIR_CONTROL_CHARACTER, f"turn {number} holds {character}")
        messages.append(Message(role, content.strip()))
    roles = tuple(message.role for message in messages)
    if roles not in _ROLES:
        return Failure(PAIR_ROLES, f"roles: {', '.join(roles) or 'none'}"[:300])
    for message in messages:
        if not message.content or message.content.lower() in _PLACEHOLDERS:
            return Failure(PAIR_EMPTY, f"the {message.role} turn says '{message.content}'")
    return tuple(messages)
