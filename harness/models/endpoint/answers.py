"""Outcomes of a request to an endpoint: an answer, a failure worth another attempt, a refusal, a dead end.

Whether a failed attempt was billed decides how it is treated. One that never reached the model costs nothing and may be
repeated; an answer that was paid for and is of no use is asked for once more and then given up, so that a broken server
cannot be paid without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from harness.models.endpoint.bodies import (
    excerpt,
    message_of,
    page_status,
    parse_body,
    refusal_of,
    text_of,
    tokens_of,
    wrapped_error,
)

USELESS = frozenset({"invalid_json", "no_choices", "no_text"})
"""Answers that arrived, were billed, and hold nothing."""
GATEWAY_GAVE_UP = frozenset({504, 524})
"""Statuses by which a gateway says that the model took too long: it may have answered after all, and be paid."""
LONGEST_RETRY_AFTER = 300.0
"""Seconds; a longer `Retry-After` is taken for this much, and the run's patience decides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt. `reason` is empty for an answer. Tokens are None where the server does not say, or cannot be right.

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
    if 200 <= status < 300:
        return _read_success(headers, body)
    return _failure(status, f"HTTP {status}: {message_of(body)}", retry_after(headers))


def _failure(status: int, detail: str, wish: float | None) -> Outcome:
    if status == 429:
        return Outcome("rate_limited", detail, retry=True, full=True, retry_after=wish)
    if status in (401, 403, 404, 405):
        return Outcome("not_permitted" if status in (401, 403) else "not_found", detail, fatal=True)
    if status >= 500 or status in (408, 409, 425):
        billed = status in GATEWAY_GAVE_UP
        return Outcome("server_error", detail, billed=billed, retry=True, full=status == 503, retry_after=wish)
    return Outcome("request_refused", detail)


def _wrapped(status: int, detail: str, waits: Mapping[str, str], headers: Mapping[str, str], usage: Any) -> Outcome:
    """A failure that came with a status of success: treated as what it is, and paid only where it says so."""
    wish = retry_after(headers)
    outcome = _failure(status, f"error {status} within a successful response: {detail}", wish)
    if wish is None:
        outcome = replace(outcome, retry_after=retry_after(waits))
    prompt, completion = tokens_of(usage)
    if prompt is None:
        return outcome
    return replace(outcome, prompt_tokens=prompt, completion_tokens=completion or 0, billed=True)


def _read_success(headers: Mapping[str, str], body: bytes) -> Outcome:
    try:
        value = parse_body(body)
    except (ValueError, RecursionError):
        if (status := page_status(body)) is not None:
            return _wrapped(status, message_of(body), {}, headers, None)
        return Outcome("invalid_json", message_of(body), billed=True, retry=True)
    usage = value.get("usage") if isinstance(value, Mapping) else None
    choices = value.get("choices") if isinstance(value, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    finish = str(first.get("finish_reason") or "") if first is not None else ""
    text = text_of(first) if first is not None else None
    if text is None or finish == "error":
        if (error := wrapped_error(value)) is not None:
            return _wrapped(*error, headers, usage)
        if finish == "error":
            return _wrapped(500, "finish_reason error", {}, headers, usage)
    if not isinstance(value, dict):
        return Outcome("invalid_json", message_of(body), billed=True, retry=True)
    prompt, completion = tokens_of(usage)
    reason, detail = _lacking(first, text, finish, body)
    if reason:
        retry = reason not in ("content_filter", "refusal")
        return Outcome(
            reason=reason,
            detail=detail,
            value=None,
            prompt_tokens=prompt,
            completion_tokens=completion,
            billed=True,
            retry=retry,
        )
    # Text that took no tokens is a count that cannot be.
    completion = None if text and not completion else completion
    return Outcome(value=value, prompt_tokens=prompt, completion_tokens=completion, billed=True)


def _lacking(first: Mapping[str, Any] | None, text: str | None, finish: str, body: bytes) -> tuple[str, str]:
    """The reason code why a successful response is of no use, and in words; twice empty where it is an answer."""
    if first is None:
        return "no_choices", message_of(body)
    # A model that was cut while it thought said nothing, and that is why.
    if text is not None or finish == "length":
        return "", ""
    if finish == "content_filter":
        return "content_filter", "finish_reason content_filter"
    if refusal := refusal_of(first):
        return "refusal", excerpt(refusal)
    return "no_text", f"finish_reason {finish or 'missing'}"


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
