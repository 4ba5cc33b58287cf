"""A server of our own that is started again under its callers, and an interrupt under calls: nothing spent or lost."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from harness.config_models import ServiceConfig
from harness.errors import PrerequisiteError, StageError
from harness.models.endpoint.background import background
from harness.models.endpoint.calls import MemoryLog, Purse
from harness.models.endpoint.client import Endpoint, Reply, Request
from support.faulty_server import FaultyServer, scripted


def ask(server: FaultyServer, health: Callable[[], int], patience: float = 5.0) -> Reply:
    log = MemoryLog()
    service = ServiceConfig(read_seconds=2.0, backoff_seconds=0.01, patience_seconds=patience, attempts=2)
    endpoint = Endpoint(
        server.url,
        role="writer",
        model="m",
        identity="test",
        key="key",
        service=service,
        log=log,
        purse=Purse(log, None, None, None),
        health=health,
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "short answer about 0"}], "max_tokens": 5}
    (reply,) = endpoint.send([Request("chat/completions", body, 9, 5)])
    return reply


def states(*first: int, then: int) -> Callable[[], int]:
    """What a server says of itself, one answer after the other."""
    left: Iterator[int] = iter(first)
    return lambda: next(left, then)


@pytest.mark.parametrize("health", [states(0, then=1), states(1, 0, 0, then=2), states(1, then=2)])
def test_a_model_that_is_not_back_after_a_restart_is_waited_for(health: Callable[[], int]) -> None:
    """Also where the restart began and ended between the two looks at it: an attempt waits long for its turn."""
    with FaultyServer(scripted(("404",))) as server:
        assert ask(server, health).calls == 2


def test_a_model_that_a_whole_server_does_not_have_is_a_dead_end() -> None:
    with FaultyServer(scripted(("404",))) as server, pytest.raises(PrerequisiteError, match="does not have m"):
        ask(server, lambda: 1)


def test_a_restart_spends_neither_attempts_nor_patience() -> None:
    looks: list[int] = []
    dead = threading.Event()

    def fault(number: int, attempt: int) -> str:
        dead.set()
        return "reset" if len(looks) < 8 else ""

    def health() -> int:
        if not dead.is_set():
            return 1
        looks.append(1)
        return 0 if len(looks) < 8 else 2

    with FaultyServer(fault) as server:
        reply = ask(server, health, patience=0.05)
        assert not reply.reason and reply.calls == len(server.log) == 2


def test_a_server_that_is_given_up_over_a_restart_ends_the_wait() -> None:
    dead = threading.Event()

    def fault(number: int, attempt: int) -> str:
        dead.set()
        return "reset"

    looks: list[int] = []

    def health() -> int:
        looks.append(1)
        if len(looks) > 8:
            raise StageError("it died 3 times")
        return 0 if dead.is_set() else 1

    with FaultyServer(fault) as server, pytest.raises(StageError, match="died 3 times"):
        ask(server, health)
    assert len(server.log) == 1


def test_an_interrupt_is_raised_when_the_interrupted_work_has_ended() -> None:
    """Not after some time: calls under way write to an account that whoever is interrupted closes next."""
    ended: list[str] = []

    async def work() -> None:
        try:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.6)
            ended.append("account")

    with pytest.raises(KeyboardInterrupt):
        background().run(work())
    assert ended == ["account"]


def test_background_work_hands_on_results_and_errors() -> None:
    async def result() -> int:
        return 7

    async def error() -> int:
        raise StageError("no")

    assert background().run(result()) == 7
    with pytest.raises(StageError, match="no"):
        background().run(error())
