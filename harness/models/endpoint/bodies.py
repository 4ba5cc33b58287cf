"""The reading of a server's JSON: text, tokens, errors, in the many ways in which servers and gateways say them.

A text may be a list of parts, among them thoughts, which are no answer. Token counts may be missing or impossible. An
error may come in a body whose status says success.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from harness.types import well_formed

_NO_ANSWER = re.compile(r"think|thought|reason|refusal|tool|function|image|audio|reference|citation", re.IGNORECASE)
_DEPTH = 8
_NAMED = (
    (429, re.compile(r"rate.?limit|limit.?exceeded|too.?many.?requests|exhausted|throttl|quota|\b429\b", re.I)),
    (503, re.compile(r"overload|unavailable|loading|capacity|busy|try again|\b503\b", re.I)),
    (504, re.compile(r"timed?.?out|\b504\b", re.I)),
    (401, re.compile(r"api.?key|unauthori[sz]ed|authenticat", re.I)),
)
"""Statuses that an error without a number means, by the words it uses."""
_NUMBERED = ("code", "status", "status_code", "statusCode", "http_status", "status_msg")
_MESSAGES = ("message", "detail", "msg", "title", "error_description")
_WAITS = ("retry-after-ms", "retry-after", "retry_after_ms", "retry_after", "retryAfter")


def parse_body(body: bytes) -> Any:
    """The JSON of a body, with halves of surrogate pairs written out, since no file can hold them.

    Raises `ValueError` or `RecursionError` for what is no JSON.
    """
    value = json.loads(body)
    if b"\\u" not in body:
        return value
    text = json.dumps(value, ensure_ascii=False)
    # Doubled, so that what was a half of a character becomes the six characters that stood for it.
    mended = well_formed(text, "\\\\")
    return value if mended == text else json.loads(mended)


def text_of(choice: Mapping[str, Any]) -> str | None:
    """A choice's text, of the chat or the completion form, without thoughts; None where there is none."""
    message = choice.get("message")
    return _flat(message.get("content") if isinstance(message, Mapping) else choice.get("text"))


def _flat(content: Any, depth: int = _DEPTH) -> str | None:
    """Text that may be nested in parts."""
    if isinstance(content, str):
        return content
    if not depth:
        return None
    if isinstance(content, Mapping):
        if _NO_ANSWER.search(str(content.get("type") or "")) or content.get("thought") is True:
            return None
        inside = (_flat(content.get(key), depth - 1) for key in ("text", "value", "content", "parts"))
        return next((text for text in inside if text is not None), None)
    if isinstance(content, list):
        texts = [text for part in content if (text := _flat(part, depth - 1)) is not None]
        return "".join(texts) if texts else None
    return None


def refusal_of(choice: Mapping[str, Any]) -> str:
    """The text that a model gives instead of an answer, where it declines; empty where it does not."""
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return ""
    if isinstance(said := message.get("refusal"), str):
        return said
    parts = message.get("content")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, Mapping) and part.get("type") == "refusal":
            return str(part.get("refusal") or part.get("text") or "refused")
    return ""


def tokens_of(usage: Any) -> tuple[int | None, int | None]:
    """Prompt and completion tokens of a `usage`; None where it does not say, or says what cannot be.

    A prompt has at least one token.
    """
    if not isinstance(usage, Mapping):
        return None, None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    return prompt or None, completion


def _count(value: Any) -> int | None:
    """A number of tokens: a whole number from 0, also as `30.0` or as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value >= 0 and value == int(value) else None


def estimate(text: str) -> int:
    """About how many tokens a text has: four letters of English one, every other character one."""
    plain = sum(character.isascii() for character in text)
    return -(-plain // 4) + len(text) - plain


def estimated_usage(request: Mapping[str, Any], answer: Mapping[str, Any]) -> tuple[int, int]:
    """Estimated prompt and completion tokens of a call whose server counts none."""
    prompt = request.get("prompt")
    asked = len(prompt) if isinstance(prompt, list) else estimate(str(request.get("messages", prompt or "")))
    said = 0
    for choice in answer.get("choices") or ():
        message = choice.get("message") if isinstance(choice, Mapping) else None
        thought = message.get("reasoning_content") or message.get("reasoning") if isinstance(message, Mapping) else ""
        said += estimate((text_of(choice) or "") + (thought if isinstance(thought, str) else ""))
    return max(1, asked), said


def message_of(body: bytes) -> str:
    """The error message in a body, or the beginning of it."""
    try:
        value = parse_body(body)
    except (ValueError, RecursionError):
        return excerpt(body.decode("utf-8", "replace"))
    said = _said(_error_in(value) or value)
    return excerpt(said if said else body.decode("utf-8", "replace"))


def excerpt(text: str) -> str:
    """The first 300 characters of a text, on one line."""
    text = " ".join(well_formed(text).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def wrapped_error(value: Any) -> tuple[int, str, Mapping[str, str]] | None:
    """The status, message and waiting times (as headers) of an error in a body that came with success.

    None where there is no error in it, or an answer beside it. An error that says nothing of its kind counts as the
    server's own (500).
    """
    error = _error_in(value)
    if not error:
        return None
    said = _said(error) or json.dumps(error, ensure_ascii=False)
    fields = error if isinstance(error, Mapping) else {}
    above = value if isinstance(value, Mapping) else {}
    named = " ".join(str(fields.get(key) or "") for key in (*_NUMBERED, "type", "reason")) + " " + said
    numbers = (_count(source.get(key)) for source in (fields, above) for key in _NUMBERED)
    status = next((n for n in numbers if n is not None and 400 <= n <= 599), None)
    if status is None:
        status = next((number for number, words in _NAMED if words.search(named)), 500)
    return status, excerpt(said), _waits(fields, above)


def page_status(body: bytes) -> int | None:
    """The status that a page of HTML speaks of, such as a proxy's "503 Service Unavailable"; None where none."""
    text = body[:2000].decode("utf-8", "replace")
    found = re.search(r"\b(429 Too Many|502 Bad|503 Service|504 Gateway)", text) if "<" in text else None
    return int(found[1][:3]) if found else None


def _error_in(value: Any) -> Any:
    """The error that a body holds: under `error` or `errors`, in its first choice, or the body itself."""
    if isinstance(value, list):
        value = next((v for v in value if isinstance(v, Mapping)), {})
    if not isinstance(value, Mapping):
        return None
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    for source, key in ((value, "error"), (value, "errors"), (first, "error")):
        if error := source.get(key):
            return error[0] if isinstance(error, list) else error
    alone = not isinstance(choices, list) and "data" not in value
    return value if alone and any(value.get(key) for key in _MESSAGES) else None


def _said(error: Any) -> str:
    """An error's own words."""
    if isinstance(error, Mapping):
        found: Any = next((error[key] for key in _MESSAGES if error.get(key)), "")
        return found if isinstance(found, str) else str(found)
    return error if isinstance(error, str) else ""


def _waits(*sources: Mapping[str, Any]) -> Mapping[str, str]:
    """The wait that an error asks for, under the names of HTTP's headers."""
    places: list[Mapping[str, Any]] = list(sources)
    for source in sources:
        metadata = source.get("metadata")
        if isinstance(metadata, Mapping):
            places += [metadata, *([metadata["headers"]] if isinstance(metadata.get("headers"), Mapping) else [])]
    found: dict[str, str] = {}
    for place in places:
        lower = {str(key).lower(): item for key, item in place.items()}
        for name in _WAITS:
            item = lower.get(name.lower())
            if isinstance(item, int | float | str):
                header = "retry-after-ms" if name.endswith("ms") else "retry-after"
                found.setdefault(header, str(item))
    return found
