"""One asynchronous client for a server that speaks the OpenAI API, behind an ordinary blocking call.

All rules about calling live here: how many at once, how often again and when, what was paid, when to stop. The HTTP
library's own retries are off, because every attempt has to be in the account. A request that fails while others
succeed is that request's failure and becomes a reject; when nothing succeeds it is the service that failed, which stops
the run with one line. What this gives up: answers are not streamed, so the first byte is the last thing one waits for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from harness.config_models import LOOPBACK, ServiceConfig
from harness.errors import HarnessError, PrerequisiteError, StageError
from harness.models.endpoint.answers import USELESS, Outcome, read_response
from harness.models.endpoint.background import background
from harness.models.endpoint.bodies import estimated_usage
from harness.models.endpoint.calls import Call, CallLog, Purse
from harness.models.endpoint.throttle import Breaker, Throttle, waiting_requests
from harness.types import stable_hash

LONGEST_BACKOFF = 30.0
USELESS_IN_A_ROW = 16
"""Requests given up one after the other, without a single answer, after which the endpoint counts as unusable."""
PAID_TRIES = 2
"""Answers to one request that may be billed and useless; then it is given up."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call: the path below the base URL, its JSON body, and the most tokens that it can be billed for."""

    path: str
    body: Mapping[str, Any]
    prompt_bound: int
    completion_bound: int
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a request: the server's answer, or why there is none (`reason`, `detail`).

    Tokens are those of the answer; `extra_*` are those of attempts that were billed in vain.
    """

    value: Mapping[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    extra_prompt_tokens: int = 0
    extra_completion_tokens: int = 0
    calls: int = 1
    reason: str = ""
    detail: str = ""


class Endpoint:
    """A server, one role's model on it, and everything that is remembered about calling it."""

    def __init__(
        self,
        base_url: str,
        *,
        role: str,
        model: str,
        identity: str,
        key: str | None,
        service: ServiceConfig,
        log: CallLog,
        purse: Purse,
        has_queue: bool = False,
        health: Callable[[], int] | None = None,
    ) -> None:
        """`health` is asked about a server of our own: the number of its process, 0 while it is being restored.

        It raises once that server is given up.
        """
        self.base_url, self.role, self.model, self.identity = base_url.rstrip("/"), role, model, identity
        self.host = urlsplit(base_url).netloc.rpartition("@")[2]
        self._remote = urlsplit(base_url).hostname not in LOOPBACK
        self._key, self._service, self.log, self._purse = key, service, log, purse
        self._has_queue, self._health = has_queue, health
        self._http: Any = None
        self._throttle: Throttle | None = None
        self._breaker = Breaker()
        self._useless = 0
        self._known_process = 0
        self._estimates = False
        self._last_success = float("-inf")
        self._last_failure = Outcome()

    def send(self, requests: list[Request]) -> list[Reply]:
        """Answer every request, in order. Raises `StageError` for a service that stays down, and `BudgetError`."""
        return background().run(self._all(requests))

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
        """One plain call that is not part of the account (loading an adapter): status and text."""
        return background().run(self._plain("POST", path, body))

    def get(self, path: str) -> tuple[int, str]:
        """One plain GET, relative to the server's root when `path` starts with a slash."""
        return background().run(self._plain("GET", path, None))

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            background().run(self._http.aclose())
            self._http = None

    def _client(self) -> Any:
        if self._http is None:
            import httpx2

            s = self._service
            self._http = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx2.Timeout(s.read_seconds, connect=s.connect_seconds, pool=None),
                limits=httpx2.Limits(max_connections=s.concurrency + 4, max_keepalive_connections=s.concurrency),
                # A redirect would carry the key and the texts to a host that nobody named.
                follow_redirects=False,
                trust_env=self._remote,
            )
            self._throttle = Throttle(s.concurrency)
        return self._http

    async def _plain(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, str]:
        import httpx2

        root = self.base_url.removesuffix("/v1") if path.startswith("/") else self.base_url
        try:
            response = await self._client().request(method, f"{root}/{path.lstrip('/')}", json=body)
        except httpx2.HTTPError as error:
            return 0, self._clean(f"{type(error).__name__} {error}")
        return int(response.status_code), self._clean(response.text)

    async def _all(self, requests: list[Request]) -> list[Reply]:
        self._client()
        watch = asyncio.create_task(self._watch_queue()) if self._has_queue else None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(request)) for request in requests]
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            if watch is not None:
                watch.cancel()
        return [task.result() for task in tasks]

    async def _watch_queue(self) -> None:
        """Read how many requests the server has queued, since vLLM says in no other way that it is full."""
        assert self._throttle is not None
        while True:
            await asyncio.sleep(1.0)
            status, text = await self._plain("GET", "/metrics", None)
            if status in (401, 403, 404):
                return
            self._throttle.queue(waiting_requests(text), time.monotonic())

    async def _answer(self, request: Request) -> Reply:
        """The stored answer of a request, or what calling leads to."""
        cache = request.cache and self._service.cache
        key = stable_hash(self.identity, request.path, request.body, length=32) if cache else ""
        stored = self.log.answer(key) if cache else None
        if stored is not None:
            return Reply(**stored)
        reply = await self._call(request)
        if cache and not reply.reason:
            self.log.keep(key, {name: getattr(reply, name) for name in Reply.__dataclass_fields__})
        return reply

    async def _call(self, request: Request) -> Reply:
        """Attempts until there is an answer, the request is given up, or the service is."""
        started = time.monotonic()
        calls = failures = paid = extra_prompt = extra_completion = 0
        while True:
            process = self._process()
            outcome = await self._attempt(request)
            calls += 1
            if not outcome.reason:
                assert outcome.value is not None
                self._useless = 0
                prompt, completion = self._spent(request, outcome)
                return Reply(
                    value=outcome.value,
                    prompt_tokens=prompt,
                    completion_tokens=completion,
                    extra_prompt_tokens=extra_prompt,
                    extra_completion_tokens=extra_completion,
                    calls=calls,
                )
            extra_prompt += outcome.prompt_tokens or 0
            extra_completion += outcome.completion_tokens or 0
            paid += outcome.reason in USELESS
            failures += outcome.reason != "rate_limited"
            if outcome.reason == "not_found" and not (process and process == self._process()):
                # A server that was started again has its models back a moment after it answers. It may have them by
                # now: an attempt waits for its turn, and meanwhile a whole restart goes by.
                outcome = replace(outcome, fatal=False, retry=True)
            elif outcome.fatal:
                raise self._dead_end(outcome)
            healthy = self._last_success >= started or not self._breaker_counts(outcome)
            exhausted = (failures >= self._service.attempts and healthy) or paid >= PAID_TRIES
            if not outcome.retry or exhausted:
                self._give_up(outcome)
                return Reply(
                    value={},
                    extra_prompt_tokens=extra_prompt,
                    extra_completion_tokens=extra_completion,
                    calls=calls,
                    reason=outcome.reason,
                    detail=outcome.detail,
                )
            await self._pause(outcome, failures, started)

    def _spent(self, request: Request, outcome: Outcome) -> tuple[int, int]:
        """An answer's prompt and completion tokens, estimated where the server does not say; says so once."""
        prompt, completion = outcome.prompt_tokens, outcome.completion_tokens
        if prompt is not None and completion is not None:
            return prompt, completion
        if not self._estimates:
            self._estimates = True
            self.log.notice(
                f"{self.role} endpoint {self.host} does not say how many tokens it used, or says what cannot be; they "
                "are estimated from the texts, and limits count the most that a call can have used"
            )
        assert outcome.value is not None
        about = estimated_usage(request.body, outcome.value)
        return about[0] if prompt is None else prompt, about[1] if completion is None else completion

    async def _attempt(self, request: Request) -> Outcome:
        """One attempt under breaker, throttle and purse, recorded in the account."""
        assert self._throttle is not None
        await self._enter(self._throttle)
        try:
            while not self._purse.reserve(request.prompt_bound, request.completion_bound):
                await asyncio.sleep(0.05)
            outcome = Outcome("cancelled", billed=True)
            started = time.monotonic()
            try:
                outcome = await self._exchange(request)
            finally:
                self._record(request, outcome, time.monotonic() - started)
                self._purse.settle(request.prompt_bound, request.completion_bound)
        finally:
            await self._throttle.release()
        now = time.monotonic()
        if outcome.full:
            self._throttle.full(now)
        if self._breaker_counts(outcome):
            self._last_failure = outcome
            self._breaker.failure(now)
        elif outcome.reason != "rate_limited":
            self._breaker.success(now)
        if not outcome.reason:
            self._throttle.success()
            self._last_success = now
        return outcome

    @staticmethod
    def _breaker_counts(outcome: Outcome) -> bool:
        """Whether the service itself failed, rather than the request, its answer, or the caller's pace."""
        return outcome.reason in ("connect", "timeout", "broken_off", "server_error")

    async def _exchange(self, request: Request) -> Outcome:
        import httpx2

        try:
            async with asyncio.timeout(self._service.total_seconds):
                response = await self._client().post(f"{self.base_url}/{request.path}", json=dict(request.body))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Outcome("connect", self._clean(str(error) or "no connection"), retry=True)
        except (httpx2.TimeoutException, TimeoutError):
            return Outcome("timeout", f"no answer in {self._service.read_seconds:g} s", billed=True, retry=True)
        except httpx2.HTTPError as error:
            return Outcome("broken_off", self._clean(str(error) or type(error).__name__), billed=True, retry=True)
        content = response.content
        if self._key:
            # Before anything is cut out of it: the beginning of a key is a secret too.
            content = content.replace(self._key.encode(), b"[key]")
        return read_response(int(response.status_code), response.headers, content)

    def _record(self, request: Request, outcome: Outcome, seconds: float) -> None:
        prompt, completion = outcome.prompt_tokens, outcome.completion_tokens
        known = prompt is not None and completion is not None
        bound = (
            request.prompt_bound if prompt is None else prompt,
            request.completion_bound if completion is None else completion,
        )
        if not outcome.billed:
            prompt, completion, bound, known = 0, 0, (0, 0), True
        usd = self._purse.usd(prompt or 0, completion or 0) if known else None
        choices = outcome.value["choices"] if outcome.value else [{}]
        self.log.record(
            Call(
                role=self.role,
                model=self.model,
                host=self.host,
                status=outcome.reason or "ok",
                finish_reason=str(choices[0].get("finish_reason") or ""),
                prompt_tokens=prompt,
                completion_tokens=completion,
                seconds=seconds,
                usd=usd,
                bound_tokens=sum(bound),
                bound_usd=self._purse.usd(*bound) or 0.0,
            )
        )

    async def _enter(self, throttle: Throttle) -> None:
        """Wait for a place in flight and for a service that may be called; both at once, since either can pass."""
        while True:
            await throttle.acquire()
            wait = self._breaker.wait(time.monotonic())
            if not wait:
                return
            await throttle.release()
            self._check_patience()
            await asyncio.sleep(min(wait, 0.5))

    async def _pause(self, outcome: Outcome, failures: int, started: float) -> None:
        """Wait before the next attempt: what the server asks for, else exponential back-off with full jitter's half."""
        self._check_patience()
        if outcome.reason == "rate_limited":
            now = time.monotonic()
            if now - max(started, self._last_success) > self._service.patience_seconds:
                raise StageError(
                    f"{self.host} has answered nothing but 'too many requests' for {now - started:.0f} s "
                    f"({outcome.detail}); finished work is kept: wait, or lower runtime.service.concurrency, then "
                    "resume"
                )
        wait = min(LONGEST_BACKOFF, self._service.backoff_seconds * 2.0 ** min(max(failures - 1, 0), 16))
        wait *= random.uniform(0.5, 1.5)
        if outcome.retry_after is not None:
            wait = outcome.retry_after + random.uniform(0.0, 0.25)
        await asyncio.sleep(wait)
        # While a server of our own is being restored, attempts at it would be spent on nothing.
        while not self._process():
            await asyncio.sleep(0.1)

    def _process(self) -> int:
        """The number of the process behind a server of our own, 0 while that is being restored; 1 for others.

        One that took the place of another has answered whoever restored it: what went before is not held against it.
        """
        process = 1 if self._health is None else self._health()
        if process > self._known_process:
            self._known_process = process
            self._breaker.success(time.monotonic())
        return process

    def _check_patience(self) -> None:
        """Raise `StageError` where the service has been down for too long, or is known not to come back."""
        if not self._process():
            return
        down = self._breaker.down_for(time.monotonic())
        if down > self._service.patience_seconds:
            last = self._last_failure
            raise StageError(
                f"{self.role} endpoint {self.host} has failed for {down:.0f} s without one answer (last: "
                f"{last.reason}, {last.detail}); finished work is kept: start the server again, then resume"
            )

    def _give_up(self, outcome: Outcome) -> None:
        self._useless += 1
        if self._useless >= USELESS_IN_A_ROW:
            raise StageError(
                f"{self.role} endpoint {self.host} gave no usable answer to {self._useless} requests in a row (last: "
                f"{outcome.reason}, {outcome.detail}); check that {self.model} is what it serves and that it knows the "
                "request's options, then resume"
            )

    def _dead_end(self, outcome: Outcome) -> PrerequisiteError:
        if outcome.reason == "not_permitted":
            what = "refuses the key" if self._key else "asks for a key"
            return PrerequisiteError(
                f"{self.role} endpoint {self.host} {what} ({outcome.detail.partition(':')[0]}); put a valid key into a "
                f"variable and name it with models.{self.role}.key_env"
            )
        return PrerequisiteError(
            f"{self.role} endpoint {self.host} does not have {self.model} at {self.base_url} ({outcome.detail}); check "
            f"models.{self.role}.id and base_url"
        )

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    """The one error to show of tasks that failed together: a designed one before a defect."""
    flat: list[BaseException] = []
    for error in errors.exceptions:
        flat.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return min(flat, key=lambda e: not isinstance(e, HarnessError))
