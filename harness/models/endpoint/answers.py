"""What came back from an endpoint, told apart: an answer, a failure worth another attempt, a refusal, a dead end.

Whether a failed attempt was billed decides how it is treated. One that never reached the model costs nothing and may be
repeated; an answer that was paid for and is of no use is asked for once more and then given up, so that a broken server
cannot be paid without end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

USELESS = frozenset({"invalid_json", "no_choices", "no_text", "no_usage"})
"""Answers that arrived, were billed, and hold nothing."""
GATEWAY_GAVE_UP = frozenset({504, 524})
"""Statuses by which a gateway says that the model took too long: it may have answered after all, and be paid."""
LONGEST_RETRY_AFTER = 300.0
"""Seconds; a longer `Retry-After` is taken for this much, and the run's patience decides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt. `reason` is empty for an answer.

    `billed` says whether tokens may have been charged. `retry` allows another attempt, `full` says that the server asks
    for fewer calls, `fatal` that no request of this kind can ever succeed. `retry_after` is the server's wish in
    seconds.
    """

    reason: str = ""
    detail: str = ""
    value: Mapping[str, Any] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    billed: bool = False
    retry: bool = False
    full: bool = False
    fatal: bool = False
    retry_after: float | None = None


def read_response(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """An HTTP response as an outcome."""
    if status == 200:
        return _read_success(body)
    detail = f"HTTP {status}: {message_of(body)}"
    wish = retry_after(headers)
    if status == 429:
        return Outcome("rate_limited", detail, retry=True, full=True, retry_after=wish)
    if status in (401, 403, 404, 405):
        return Outcome("not_permitted" if status in (401, 403) else "not_found", detail, fatal=True)
    if status >= 500 or status in (408, 409, 425):
        billed = status in GATEWAY_GAVE_UP
        return Outcome("server_error", detail, billed=billed, retry=True, full=status == 503, retry_after=wish)
    return Outcome("request_refused", detail)


def _read_success(body: bytes) -> Outcome:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return Outcome("invalid_json", _excerpt(body), billed=True, retry=True)
    if not isinstance(value, dict):
        return Outcome("invalid_json", _excerpt(body), billed=True, retry=True)
    prompt, completion = _tokens(value.get("usage"))
    choices = value.get("choices")
    reason = detail = ""
    if not isinstance(choices, list) or not choices:
        reason, detail = "no_choices", message_of(body)
    elif not all(isinstance(c, dict) and _text(c) is not None for c in choices):
        finish = str(choices[0].get("finish_reason") if isinstance(choices[0], dict) else "")
        filtered = finish == "content_filter"
        reason, detail = ("content_filter" if filtered else "no_text"), f"finish_reason {finish or 'missing'}"
    elif prompt is None or completion is None:
        reason, detail = "no_usage", "the answer does not say what it used"
    if not reason:
        return Outcome(value=value, prompt_tokens=prompt, completion_tokens=completion, billed=True)
    retry = reason != "content_filter"
    return Outcome(reason, detail, None, prompt, completion, billed=True, retry=retry)


def _text(choice: Mapping[str, Any]) -> str | None:
    """A choice's text, of the chat or the completion form."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return text if isinstance(text, str) else None


def text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice that `read_response` let through."""
    return _text(choice) or ""


def _tokens(usage: Any) -> tuple[int | None, int | None]:
    if not isinstance(usage, Mapping):
        return None, None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return prompt if isinstance(prompt, int) else None, completion if isinstance(completion, int) else None


def message_of(body: bytes) -> str:
    """The error message in a body, or the beginning of it."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return _excerpt(body)
    error = value.get("error", value.get("detail", value.get("message"))) if isinstance(value, dict) else value
    if isinstance(error, dict):
        error = error.get("message", error)
    return _excerpt(str(error).encode()) if error else _excerpt(body)


def _excerpt(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asks to wait: `Retry-After` as seconds or as a date, or `retry-after-ms`."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return min(LONGEST_RETRY_AFTER, max(0.0, float(milliseconds) / 1000))
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return min(LONGEST_RETRY_AFTER, float(value))
        when = parsedate_to_datetime(value)
        seconds = (when - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds))
