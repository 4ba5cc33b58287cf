"""Bodies of servers and gateways: wrapped errors, odd token counts, parts, half characters, other statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BudgetError, PrerequisiteError
from harness.models.backend import Completion, PromptRequest, Sampling
from harness.models.endpoint.answers import Outcome, read_response
from harness.models.endpoint.bodies import estimate, text_of, tokens_of
from harness.models.endpoint.calls import MemoryLog
from harness.runtime.call_log import RunCallLog
from harness.runtime.ledger import Ledger
from harness.synthesis.pairs import parse_pair
from harness.synthesis.parsing import Failure
from harness.types import Message, stable_hash, well_formed
from support.endpoints import open_backend
from support.faulty_server import FaultyServer, scripted

Odd = Callable[[dict[str, Any]], tuple[int, Any]]
GOOD = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3},
}


def run(server: FaultyServer, count: int = 1, log: Any = None, max_tokens: int | None = None) -> list[Completion]:
    backend = open_backend(server, log, max_tokens=max_tokens, structured=False)
    asked = [PromptRequest((Message("user", f"short answer about {i}"),)) for i in range(count)]
    return backend.generate(asked, Sampling(0.7, 1.0, 400), 7)


def read(value: Any, status: int = 200, **headers: str) -> Outcome:
    return read_response(status, headers, value if isinstance(value, bytes) else json.dumps(value).encode())


def with_choice(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "choices": [{**GOOD["choices"][0], **changes}]}  # type: ignore[dict-item, index]


def with_message(**message: Any) -> dict[str, Any]:
    return with_choice(message={"role": "assistant", **message})


EMPTY = {"message": {"role": "assistant", "content": None}, "finish_reason": "error"}
LIMITS = [
    {"error": {"message": "Provider returned error", "code": 429}},
    {"error": {"message": "Provider returned error", "code": "429"}, "choices": [EMPTY]},
    {"error": {"message": "slow down", "type": "rate_limit_error"}, "choices": None},
    {"error": "Rate limit reached for this model"},
    {"errors": [{"code": 10000, "message": "Too many requests"}], "success": False},
    [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}],
    {"object": "error", "message": "slow down", "code": 429},
    {"choices": [{**EMPTY, "error": {"code": 429, "message": "slow down"}}], "usage": {"prompt_tokens": 0}},
    {"detail": "Too Many Requests"},
    {"status": 429, "title": "slow down"},
    b"<html><title>429 Too Many Requests</title></html>",
]


@pytest.mark.parametrize("body", LIMITS)
def test_a_limit_within_a_success_is_a_limit(body: Any) -> None:
    outcome = read(body)
    assert (outcome.reason, outcome.retry, outcome.full, outcome.billed) == ("rate_limited", True, True, False)
    assert outcome.prompt_tokens is None and outcome.value is None


def test_other_errors_within_a_success_are_what_they_would_be_outside() -> None:
    def reason(**error: Any) -> str:
        inside = read({"error": error})
        assert not inside.billed or error.get("code") in (504, 524)
        if "code" in error:
            assert inside.reason == read({"error": error}, error["code"]).reason
        return inside.reason

    assert reason(code=503, message="x") == reason(code=500) == reason(code=504) == "server_error"
    for unnumbered in ({"message": "The model is loading"}, {"message": "what"}, {"type": "api_error"}):
        assert reason(**unnumbered) == "server_error"
    assert reason(code=401, message="x") == reason(message="Invalid API key") == "not_permitted"
    assert reason(code=404) == "not_found" and reason(code=400) == "request_refused"
    assert read({"error": {"code": 503}}).full and not read({"error": {"code": 500}}).full
    assert read({**GOOD, "error": None}).reason == read({**GOOD, "error": {}}).reason == ""
    paid = read({"error": {"code": 500}, "choices": [EMPTY], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
    assert paid.billed and (paid.prompt_tokens, paid.completion_tokens) == (9, 2)
    assert read(with_choice(finish_reason="error")).reason == "server_error"


def test_what_a_wrapped_error_asks_to_wait_is_waited_for() -> None:
    def wish(value: Any, **headers: str) -> float | None:
        return read({"error": {"code": 429, **value}}, 200, **headers).retry_after

    assert wish({}, **{"retry-after": "7"}) == wish({"retry_after": 7}) == 7
    assert wish({"metadata": {"headers": {"Retry-After": "3"}}}) == 3
    assert wish({"retry_after_ms": 500}) == 0.5
    assert wish({}) is wish({"retry_after": {"seconds": 1}}) is None


@pytest.mark.parametrize("status", [429, 503])
def test_wrapped_errors_lose_no_sample_and_count_no_token(status: int) -> None:
    odd: dict[str, Odd] = {"wrapped": lambda good: (200, {"error": {"message": "Provider error", "code": status}})}
    log = MemoryLog()
    with FaultyServer(scripted(*[("wrapped", "wrapped") if i % 3 == 0 else () for i in range(12)]), odd=odd) as server:
        completions = run(server, 12, log)
        assert [c.finish_reason for c in completions] == ["stop"] * 12
        assert [c.calls for c in completions] == [3 if i % 3 == 0 else 1 for i in range(12)]
        assert log.spent().tokens == server.prompt_tokens + server.completion_tokens
        assert sum(c.prompt_tokens + c.completion_tokens for c in completions) == log.spent().tokens
    assert not log.notices


def test_a_wrapped_refusal_of_the_key_ends_at_once() -> None:
    odd: dict[str, Odd] = {"key": lambda good: (200, {"error": {"code": 401, "message": "no"}})}
    with FaultyServer(lambda number, attempt: "key", odd=odd) as server, pytest.raises(PrerequisiteError, match="key"):
        run(server, 3)


ODD_USAGE = [
    None,
    {},
    [],
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": -1, "completion_tokens": -1},
    {"prompt_tokens": 10, "completion_tokens": 0},
    {"prompt_tokens": True, "completion_tokens": True},
    {"prompt_tokens": None, "completion_tokens": 3},
    {"prompt_tokens": 9.5, "completion_tokens": "many"},
    {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
    {"total_tokens": 12},
]


@pytest.mark.parametrize("usage", ODD_USAGE)
def test_tokens_that_cannot_be_are_estimated_said_and_bounded(usage: Any) -> None:
    odd: dict[str, Odd] = {"usage": lambda good: (200, {**good, "usage": usage})}
    log = MemoryLog()
    with FaultyServer(lambda number, attempt: "usage", odd=odd) as server:
        completions = run(server, 3, log)
    assert all(c.prompt_tokens > 0 and c.completion_tokens > 0 and not c.failure for c in completions)
    assert len(log.notices) == 1 and "estimated" in log.notices[0]
    assert log.spent().tokens > sum(c.prompt_tokens + c.completion_tokens for c in completions)
    with FaultyServer(lambda number, attempt: "usage", odd=odd) as server, pytest.raises(BudgetError):
        run(server, 9, MemoryLog(), max_tokens=1200)


@pytest.mark.parametrize(("prompt", "completion"), [(9.0, 3.0), ("9", "3"), ("9.0", 3)])
def test_tokens_in_other_types_are_taken_for_what_they_say(prompt: Any, completion: Any) -> None:
    assert tokens_of({"prompt_tokens": prompt, "completion_tokens": completion}) == (9, 3)
    assert tokens_of({"input_tokens": prompt, "output_tokens": completion}) == (9, 3)
    outcome = read({**GOOD, "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (9, 3)


def test_the_estimate_is_near_what_tokenizers_make() -> None:
    assert 20 <= estimate("The quick brown fox jumps over the lazy dog. " * 2) <= 30
    assert estimate("中文字") == 3 and estimate("") == 0


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_every_status_of_success_is_one(status: int) -> None:
    assert read(GOOD, status).reason == ""
    assert read(b"", status).reason == "invalid_json"


def text(**message: Any) -> tuple[str, str]:
    outcome = read(with_message(**message))
    if outcome.reason:
        return "", outcome.reason
    assert outcome.value is not None
    return text_of(outcome.value["choices"][0]) or "", ""


def test_content_in_parts_is_the_text_without_the_thoughts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    for content in (
        "It is.",
        ["It ", "is."],
        [{"type": "text", "text": "It is."}],
        [{"type": "text", "text": "It "}, {"type": "output_text", "text": "is."}],
        [thinking, {"type": "text", "text": "It is."}],
        [{"type": "reasoning", "text": "Hm."}, {"text": "It is."}],
        [{"type": "text", "text": {"value": "It is.", "annotations": []}}],
        [{"type": "text", "content": [{"type": "text", "text": "It is."}]}],
        {"type": "text", "text": "It is."},
        {"parts": [{"text": "Hm.", "thought": True}, {"text": "It is."}]},
    ):
        assert text(content=content) == ("It is.", "")
    assert text(content="It is.", reasoning_content="Hm.") == ("It is.", "")
    assert text(content=[thinking])[1] == text(content=None, reasoning_content="Hm.")[1] == "no_text"
    assert text(content=7)[1] == text(content=[])[1] == text(content=[[[[[[[[[["deep"]]]]]]]]]])[1] == "no_text"


def test_a_refusal_is_a_reject_with_its_words_and_is_not_paid_for_again() -> None:
    refusals: list[dict[str, Any]] = [
        {"content": None, "refusal": "I cannot."},
        {"content": [{"type": "refusal", "refusal": "I cannot."}]},
    ]
    for message in refusals:
        outcome = read(with_message(**message))
        assert (outcome.reason, outcome.detail, outcome.retry) == ("refusal", "I cannot.", False)
    assert text(content="It is.", refusal=None) == ("It is.", "")


def test_an_answer_cut_while_it_thought_is_a_reject_for_its_length() -> None:
    cut = with_choice(finish_reason="length", message={"role": "assistant", "content": None})
    odd: dict[str, Odd] = {"cut": lambda good: (200, cut)}
    with FaultyServer(lambda number, attempt: "cut", odd=odd) as server:
        (completion,) = run(server)
        assert len(server.log) == 1
    assert completion.failure == "length"


def test_only_the_first_choice_has_to_be_an_answer() -> None:
    two = {**GOOD, "choices": [GOOD["choices"][0], {"message": {"content": None}}]}  # type: ignore[index]
    assert read(two).reason == ""
    assert read({**GOOD, "choices": ["It is."]}).reason == "no_choices"


def test_half_a_character_in_an_answer_is_written_out_and_a_reject_inside_a_pair(tmp_path: Path) -> None:
    odd: dict[str, Odd] = {
        "half": lambda good: (200, with_message(content='{"messages": "\ud83d and \U0001f600"}', other=["\udc00"]))
    }
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with FaultyServer(lambda number, attempt: "half", odd=odd) as server:
        (completion,) = run(server, 1, RunCallLog(ledger, "s", "", lambda *a, **k: None))
        (again,) = run(server, 1, RunCallLog(ledger, "s", "", lambda *a, **k: None))
    ledger.close()
    assert completion == again and completion.text == '{"messages": "\\ud83d and \U0001f600"}'
    pair = json.dumps({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "\ud83d."}]})
    parsed = parse_pair(well_formed(json.loads(json.dumps(pair))))
    assert isinstance(parsed, Failure) and parsed.reason == "pair_schema"


def test_half_a_character_in_an_error_is_written_out() -> None:
    outcome = read({"error": {"message": "bad \ud83d here", "param": "\udfff"}}, 400)
    assert outcome.detail == "HTTP 400: bad \\ud83d here"
    assert read(b'{"error": "bad \\ud83d"}').detail.endswith("bad \\ud83d")


def test_hashes_take_any_text() -> None:
    assert stable_hash("a\ud83d") != stable_hash("a\ud83e") and len(stable_hash("\udfff")) == 16
    assert well_formed("a\ud83d\U0001f600") == "a\\ud83d\U0001f600"
