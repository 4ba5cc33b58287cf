"""The client of endpoints against a server that fails in every way: nothing lost, nothing counted twice, all paid."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from harness.config_models import ModelConfig, PriceConfig
from harness.errors import BudgetError, PrerequisiteError, StageError
from harness.models.access import key_of
from harness.models.backend import Completion, PromptRequest
from harness.models.endpoint.answers import read_response, retry_after
from harness.models.endpoint.calls import MemoryLog
from harness.models.endpoint.throttle import Breaker, Throttle, waiting_requests
from harness.synthesis.forms import PAIR_FORM, RUBRIC_FORM
from harness.types import Message
from support.endpoints import KEY, QUICK, SAMPLING, open_backend
from support.faulty_server import FaultyServer, scripted


def requests(count: int) -> list[PromptRequest]:
    return [PromptRequest((Message("user", f"short answer about {i}"),), {}, PAIR_FORM) for i in range(count)]


def run(server: FaultyServer, count: int = 1, log: MemoryLog | None = None, **options: object) -> list[Completion]:
    return open_backend(server, log, **options).generate(requests(count), SAMPLING, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", ["429", "429-after", "500", "503", "408", "reset"])
def test_a_failure_that_was_not_billed_is_tried_again(fault: str) -> None:
    log = MemoryLog()
    with FaultyServer(scripted((fault,), (), (fault, fault))) as server:
        completions = run(server, 3, log)
        assert [c.finish_reason for c in completions] == ["stop"] * 3
        assert [c.calls for c in completions] == [2, 1, 3]
        assert len(log.calls) == len(server.log) == 6
        assert sum(c.prompt_tokens for c in completions) == server.prompt_tokens
        assert sum(c.completion_tokens for c in completions) == server.completion_tokens
        assert all(c.extra_prompt_tokens == 0 for c in completions)


@pytest.mark.parametrize("fault", ["truncated", "slow"])
def test_an_answer_that_never_arrived_is_unknown_and_tried_again(fault: str) -> None:
    log = MemoryLog()
    with FaultyServer(scripted((fault,)), slow_seconds=1.0) as server:
        (completion,) = run(server, 1, log)
    assert completion.finish_reason == "stop" and completion.calls == 2
    failed, good = log.calls
    assert failed.status in ("broken_off", "timeout")
    # Not zero: it may have been billed, and counts at its bound toward a limit.
    assert failed.prompt_tokens is None and failed.usd is None and failed.bound_tokens > SAMPLING.max_tokens
    assert good.status == "ok" and good.bound_tokens == (good.prompt_tokens or 0) + (good.completion_tokens or 0)


def test_an_empty_answer_is_paid_for_twice_at_most() -> None:
    log = MemoryLog()
    with FaultyServer(scripted(("no_choices",), ("no_choices",) * 9)) as server:
        once, never = run(server, 2, log)
        assert once.finish_reason == "stop" and once.calls == 2 and once.extra_prompt_tokens > 0
        assert never.failure == "no_choices" and never.calls == 2 and never.text
        assert once.prompt_tokens + once.extra_prompt_tokens + never.extra_prompt_tokens == server.prompt_tokens
    assert Counter(c.status for c in log.calls) == {"no_choices": 3, "ok": 1}


def test_a_body_that_is_not_json_is_given_up_after_two_bills() -> None:
    with FaultyServer(scripted(("invalid_json",) * 9, ())) as server:
        bad, good = run(server, 2)
    assert bad.failure == "invalid_json" and "proxy error" in bad.text
    assert good.finish_reason == "stop"


def test_a_wrong_schema_is_repaired_once_and_billed() -> None:
    log = MemoryLog()
    with FaultyServer(scripted(("wrong_schema",))) as server:
        (completion,) = run(server, 1, log)
        asked = server.bodies[-1]["messages"]
        assert completion.calls == 2 and completion.extra_completion_tokens > 0
        assert completion.completion_tokens + completion.extra_completion_tokens == server.completion_tokens
        assert asked[-2]["role"] == "assistant" and "I would rather not" in asked[-2]["content"]
        assert "messages: Field required" in asked[-1]["content"]
    assert not PAIR_FORM.fault(completion.text, None)


def test_what_the_repair_does_not_mend_keeps_its_raw_text() -> None:
    with FaultyServer(lambda number, attempt: "wrong_schema") as server:
        (completion,) = run(server, 1)
        assert len(server.log) == 2
    assert completion.finish_reason == "stop" and "I would rather not" in completion.text


def test_length_is_kept_and_not_repaired() -> None:
    with FaultyServer(scripted(("length",))) as server:
        (completion,) = run(server, 1)
        assert len(server.log) == 1
    assert completion.finish_reason == completion.failure == "length"
    assert completion.text and completion.completion_tokens > 0


def test_length_is_accepted_where_the_settings_say_so() -> None:
    with FaultyServer(scripted(("length",))) as server:
        (completion,) = run(server, 1, accept_length=True)
    assert completion.finish_reason == "length" and not completion.failure


def test_the_schema_is_sent_and_only_where_asked_for() -> None:
    with FaultyServer() as server:
        run(server, 1)
        run(server, 1, structured=False)
        with_schema, without = server.bodies
    given = with_schema["response_format"]["json_schema"]
    assert given["name"] == "pair" and given["schema"]["additionalProperties"] is False
    assert "response_format" not in without


def test_rubrics_have_a_form_too() -> None:
    assert RUBRIC_FORM.fault('{"Prompt-related": "x"}', None).startswith("Response-related")
    assert RUBRIC_FORM.schema(40)["properties"]["Prompt-related"]["maxLength"] == 40


def test_one_poisoned_request_is_a_reject_while_others_succeed() -> None:
    with FaultyServer(scripted(("500",) * 99)) as server:
        poisoned, *others = run(server, 12)
    assert poisoned.failure == "server_error" and poisoned.calls == QUICK.attempts
    assert all(c.finish_reason == "stop" for c in others)


def test_a_service_that_is_down_stops_the_run_with_one_line() -> None:
    service = QUICK.model_copy(update={"patience_seconds": 0.3})
    with FaultyServer(lambda number, attempt: "500") as server, pytest.raises(StageError) as error:
        run(server, 4, service=service)
    assert "without one answer" in str(error.value) and "resume" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_says_so() -> None:
    with FaultyServer() as server:
        pass
    service = QUICK.model_copy(update={"patience_seconds": 0.2})
    with pytest.raises(StageError, match="failed for"):
        run(server, 1, service=service)


def test_a_breaker_spares_a_service_that_is_down() -> None:
    """Sixty-four requests at once, each entitled to six attempts: without the breaker nearly four hundred calls."""
    service = QUICK.model_copy(update={"patience_seconds": 1.0})
    with FaultyServer(lambda number, attempt: "500") as server, pytest.raises(StageError):
        run(server, 64, service=service)
    assert len(server.log) < 40


def test_a_refused_key_ends_at_once_and_is_not_repeated() -> None:
    with FaultyServer(lambda number, attempt: "401") as server, pytest.raises(PrerequisiteError) as error:
        run(server, 20)
    assert "key" in str(error.value) and KEY not in str(error.value)


def test_a_refused_request_is_a_reject_with_the_servers_words_and_without_the_key() -> None:
    log = MemoryLog()
    with FaultyServer(scripted(("400",))) as server:
        refused, good = run(server, 2, log)
        assert server.keys == {f"Bearer {KEY}"}
    assert refused.failure == "request_refused" and "HTTP 400" in refused.text and KEY not in refused.text
    assert good.finish_reason == "stop"
    assert all(KEY not in repr(call) for call in log.calls)


def test_no_part_of_a_key_survives_where_a_message_is_cut() -> None:
    for padding in range(280, 301):
        with FaultyServer(scripted(("400",))) as server:
            server.message = "x" * padding
            (refused,) = run(server, 1)
        assert KEY[:6] not in refused.text and refused.text.startswith("HTTP 400: xxx")


@pytest.mark.parametrize("key", ["sk-planted\u00e9", "sk-pla nted", "sk-pla\nnted"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_printed(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(id="m", backend="openai", base_url="http://127.0.0.1:1/v1", key_env="PLANTED")
    monkeypatch.setenv("PLANTED", key)
    with pytest.raises(PrerequisiteError, match="PLANTED holds blanks") as error:
        key_of(model, "generator")
    assert "sk-pla" not in str(error.value)
    monkeypatch.setenv("PLANTED", f"{KEY}\r\n")
    assert key_of(model, "generator") == KEY
    monkeypatch.setenv("PLANTED", " \n")
    with pytest.raises(PrerequisiteError, match="is not set"):
        key_of(model, "generator")


def test_a_gateway_that_gave_up_waiting_counts_at_the_bound() -> None:
    log = MemoryLog()
    with FaultyServer(scripted(("504",))) as server:
        run(server, 1, log, price=PriceConfig(input=1, output=1))
    first, second = log.calls
    assert (first.status, first.prompt_tokens, first.usd) == ("server_error", None, None)
    assert first.bound_tokens > second.bound_tokens and first.bound_usd > 0


def test_an_endpoint_that_refuses_everything_stops_the_run() -> None:
    with FaultyServer(lambda number, attempt: "400") as server, pytest.raises(StageError, match="16 requests in a row"):
        run(server, 40)


def test_retry_after_is_waited_for() -> None:
    with FaultyServer(scripted(("429-after",))) as server:
        run(server, 1)
        (first, *_), (second, *_) = server.log
    assert second - first >= 0.3


def test_retry_after_is_read_as_seconds_or_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT"}, now) == 9
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "99999"}) == 300
    assert retry_after({}) is None


def test_a_stored_answer_is_not_paid_for_again() -> None:
    log = MemoryLog()
    with FaultyServer(scripted(("no_choices",))) as server:
        first = run(server, 5, log)
        calls = len(server.log)
        again = run(server, 5, log)
        assert len(server.log) == calls
    # What an answer had cost in vain comes back with it: a resumed stage's account is that of one that ran through.
    assert again == first and again[0].extra_prompt_tokens > 0


def test_other_draws_are_other_answers() -> None:
    log = MemoryLog()
    with FaultyServer() as server:
        backend = open_backend(server, log)
        same = [requests(1)[0]] * 3
        texts = {c.text for c in backend.generate(same, SAMPLING, 7)} | {
            c.text for c in backend.generate(same, SAMPLING, 8)
        }
    assert len(texts) == 6


def test_a_limit_on_tokens_is_never_overstepped_and_what_succeeded_is_kept() -> None:
    log = MemoryLog()
    limit = 3000
    with FaultyServer() as server:
        with pytest.raises(BudgetError, match=r"limit of 3,000 tokens.*raise runtime.max_tokens"):
            run(server, 40, log, max_tokens=limit)
        paid = server.prompt_tokens + server.completion_tokens
        assert 0 < paid == log.spent().tokens <= limit
        assert len(log.answers) == len([c for c in log.calls if c.status == "ok"]) > 1
        before = len(server.log)
        completions = run(server, 40, log, max_tokens=100 * limit)
        assert len(server.log) == 40 > before
    assert len(completions) == 40 and all(c.finish_reason == "stop" for c in completions)


def test_a_limit_in_dollars_counts_failed_calls() -> None:
    log = MemoryLog()
    price = PriceConfig(input=10.0, output=30.0)
    with FaultyServer(scripted(("no_choices",))) as server:
        with pytest.raises(BudgetError, match="US dollars"):
            run(server, 40, log, price=price, max_usd=0.05)
        usd = price.usd(server.prompt_tokens, server.completion_tokens)
    assert log.spent().usd == pytest.approx(usd) and usd <= 0.05
    assert any(c.status == "no_choices" and c.usd for c in log.calls)


def test_without_a_price_there_are_no_dollars() -> None:
    log = MemoryLog()
    with FaultyServer() as server:
        run(server, 1, log)
    assert log.calls[0].usd is None


def test_an_unexpected_defect_is_not_swallowed() -> None:
    class Broken(MemoryLog):
        def record(self, call: object) -> None:
            raise ZeroDivisionError

    with FaultyServer() as server, pytest.raises(ZeroDivisionError):
        run(server, 2, Broken())


def test_every_fault_at_once_loses_and_doubles_nothing() -> None:
    faults = ("", "429", "429-after", "500", "reset", "slow", "truncated", "invalid_json", "wrong_schema", "no_choices")
    log = MemoryLog()
    script = scripted(*[(faults[i % len(faults)],) if i % 3 else () for i in range(60)])
    with FaultyServer(script, slow_seconds=0.8) as server:
        completions = run(server, 60, log)
        assert len(completions) == 60 and len({c.text for c in completions}) == 60
        assert all(not PAIR_FORM.fault(c.text, None) for c in completions)
        assert sum(c.calls for c in completions) == len(log.calls) == len(server.log)
        known = sum((c.prompt_tokens or 0) + (c.completion_tokens or 0) for c in log.calls)
        said = sum(c.prompt_tokens + c.extra_prompt_tokens for c in completions) + sum(
            c.completion_tokens + c.extra_completion_tokens for c in completions
        )
        assert known == said


class TestThrottle:
    def test_grows_by_one_for_every_round_and_halves_once_for_an_event(self) -> None:
        throttle = Throttle(64)
        start = throttle.limit
        for _ in range(int(start)):
            throttle.success()
        assert start + 0.9 < throttle.limit <= start + 1
        throttle.full(10.0)
        throttle.full(10.5)
        assert throttle.limit == pytest.approx((start + 1) / 2, rel=0.05)
        throttle.full(11.5)
        assert throttle.limit == pytest.approx((start + 1) / 4, rel=0.05)

    def test_never_falls_below_one_nor_rises_above_the_setting(self) -> None:
        throttle = Throttle(3)
        for i in range(20):
            throttle.full(10.0 * i)
        assert throttle.limit == 1
        for _ in range(100):
            throttle.success()
        assert throttle.limit == 3

    def test_a_long_queue_counts_as_full(self) -> None:
        throttle = Throttle(64)
        throttle.in_flight = 8
        throttle.queue(2, 10.0)
        assert throttle.limit == 8
        throttle.queue(5, 10.0)
        assert throttle.limit == 4

    def test_reads_vllms_page(self) -> None:
        page = '# HELP x\nvllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 12.0\n'
        assert waiting_requests(page) == 12
        assert waiting_requests("nothing") == 0

    def test_a_429_lowers_what_is_in_flight(self) -> None:
        with FaultyServer(lambda number, attempt: "429" if attempt == 0 else "") as server:
            server.seconds = 0.02
            assert len(run(server, 30)) == 30
            assert server.most_in_flight <= 9


class TestBreaker:
    def test_opens_after_a_row_and_lets_one_try_at_growing_intervals(self) -> None:
        breaker = Breaker(threshold=3, first_wait=1.0, longest_wait=8.0)
        for _ in range(2):
            breaker.failure(0.0)
        assert breaker.wait(0.0) == 0
        breaker.failure(0.0)
        assert breaker.wait(0.0) == 1.0
        assert breaker.wait(1.0) == 0.0  # one goes
        assert breaker.wait(1.0) == 8.0  # the others do not
        breaker.failure(2.0)
        assert breaker.wait(2.0) == 2.0
        assert breaker.down_for(5.0) == 5.0

    def test_any_answer_closes_it(self) -> None:
        breaker = Breaker(threshold=1)
        breaker.failure(0.0)
        breaker.success(0.5)
        assert breaker.wait(0.5) == 0 and breaker.down_for(9.0) == 0


def test_responses_are_told_apart() -> None:
    def reason(status: int, body: bytes) -> str:
        return read_response(status, {}, body).reason

    choices = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],'
    good = choices + b'"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    assert reason(200, good) == ""
    assert reason(200, good.replace(b'"usage"', b'"other"')) == ""
    assert reason(200, good.replace(b'"x"', b"null")) == "no_text"
    filtered = read_response(200, {}, good.replace(b'"x"', b"null").replace(b"stop", b"content_filter"))
    assert filtered.reason == "content_filter" and not filtered.retry
    assert reason(200, b"[]") == "invalid_json"
    assert reason(200, b"[" * 100_000) == "invalid_json"
    assert reason(404, b'{"error":{"message":"no such model"}}') == "not_found"
    assert "no such model" in read_response(404, {}, b'{"error":{"message":"no such model"}}').detail
