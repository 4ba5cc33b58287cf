"""A vLLM server's restarts and its adapters, in every order in which two threads can come to them.

The orders are forced: a test stands between the server and its process, and lets things happen at the moment meant.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from harness.errors import StageError
from harness.models.vllm import server as vllm_server
from harness.models.vllm.server import VllmServer
from support.vllm_servers import gone, servers, stand_in, start_log, starts, until

Send: TypeAlias = Callable[[], tuple[int, str]]


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return start_log(tmp_path, monkeypatch)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., VllmServer]]:
    yield from servers(stand_in(tmp_path), tmp_path)


def between(server: VllmServer, act: Callable[[str, str, Send], tuple[int, str]]) -> None:
    """Have `act` (path, adapter's name, how to send it on) answer every request that the server's process would get."""
    plain = server._call

    def call(method: str, path: str, body: Any = None) -> tuple[int, str]:
        return act(path, (body or {}).get("lora_name", ""), lambda: plain(method, path, body))

    server._call = call  # type: ignore[method-assign]


def served(server: VllmServer) -> list[str]:
    return list(json.loads(server._call("GET", "/version")[1])["adapters"])


def in_watcher() -> bool:
    return threading.current_thread().name == "harness-vllm"


def test_a_load_between_a_restart_and_its_reloads_is_made_once(make: Callable[..., VllmServer], tmp_path: Path) -> None:
    server = make(restarts=1)
    server.start()
    server.load_adapter("a", tmp_path / "a")
    loads = []

    def act(path: str, name: str, send: Send) -> tuple[int, str]:
        answer = send()
        if path == "/health" and answer[0] == 200 and in_watcher():
            # The new process answers and has no adapter yet: the moment for another thread's load.
            deadline = time.monotonic() + 0.5
            while "b" not in server.adapters and time.monotonic() < deadline:
                time.sleep(0.01)
        if path == "/v1/load_lora_adapter" and answer[0]:
            loads.append((name, answer[0]))
        return answer

    between(server, act)
    server._call("GET", "/die")
    server.load_adapter("b", tmp_path / "b")
    until(server.check)
    assert sorted(loads) == [("a", 200), ("b", 200)] and sorted(served(server)) == ["a", "b"]


@pytest.mark.parametrize("ill", [False, True])
@pytest.mark.parametrize("moment", ["load", "reload", "unload"])
def test_a_process_that_dies_over_an_adapter_is_replaced_by_one_that_has_all(
    make: Callable[..., VllmServer], tmp_path: Path, moment: str, ill: bool
) -> None:
    server = make(restarts=2)
    server.start()
    for name in ("a", "b"):
        server.load_adapter(name, tmp_path / name)
    fatal = {"load": ("load", "c", False), "reload": ("load", "b", True), "unload": ("unload", "a", False)}[moment]
    done = []

    def act(path: str, name: str, send: Send) -> tuple[int, str]:
        if not done and path == f"/v1/{fatal[0]}_lora_adapter" and (name, in_watcher()) == fatal[1:]:
            done.append(name)
            # vLLM's engine dies first; the server says 500 for a moment, is ill, and goes.
            plain("GET", "/ill" if ill else "/die")
        answer = send()
        if ill and done and answer[0] == (500 if moment == "unload" else 503):
            plain("GET", "/die")
        return answer

    plain = server._call
    between(server, act)
    if moment == "reload":
        plain("GET", "/die")
    server.load_adapter("c", tmp_path / "c")
    process = 3 if moment == "reload" else 2
    until(lambda: server.check() == process)
    assert sorted(served(server)) == ["b", "c"] and list(server.adapters) == ["b", "c"]


def test_a_process_that_is_deaf_and_does_not_end_is_replaced(
    make: Callable[..., VllmServer], tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "ILL_SECONDS", 0.5)
    server = make(restarts=1)
    server.start()
    server.load_adapter("a", tmp_path / "a")
    server._call("GET", "/deaf")
    until(lambda: not server._call("GET", "/version")[0])
    server.load_adapter("b", tmp_path / "b")
    assert server.check() == 2 and served(server) == ["a", "b"]
    first = starts(log)[0]
    assert gone([first["pid"], first["worker"]])


def test_a_load_that_was_carried_out_and_not_answered_is_no_refusal(
    make: Callable[..., VllmServer], tmp_path: Path
) -> None:
    server = make()
    server.start()
    lost = []

    def act(path: str, name: str, send: Send) -> tuple[int, str]:
        answer = send()
        if name and not lost:
            lost.append(answer)
            return 0, "timed out"
        return answer

    between(server, act)
    server.load_adapter("a", tmp_path / "a")
    assert lost[0][0] == 200 and served(server) == ["a"]


@pytest.mark.parametrize(("path", "status"), [("bad", 404), ("rank", 500)])
def test_an_adapter_that_is_refused_is_an_error_and_forgotten(
    make: Callable[..., VllmServer], tmp_path: Path, path: str, status: int
) -> None:
    server = make(restarts=1)
    server.start()
    server.load_adapter("a", tmp_path / "a")
    with pytest.raises(StageError, match=f"HTTP {status}"):
        server.load_adapter("x", tmp_path / path)
    server._call("GET", "/die")
    until(lambda: server.check() == 2)
    assert served(server) == ["a"]


def test_equal_weights_are_loaded_again_from_where_they_were_last(
    make: Callable[..., VllmServer], tmp_path: Path
) -> None:
    """A trainer deletes the folders of earlier steps; the name of an adapter follows from its weights."""
    server = make(restarts=1)
    server.start()
    for name, folder in (("a", "step-1"), ("b", "step-2"), ("a", "step-3"), ("c", "step-4")):
        server.load_adapter(name, tmp_path / folder)
    server._call("GET", "/die")
    until(lambda: server.check() == 2)
    found = {m["id"]: m.get("root") for m in json.loads(server._call("GET", "/v1/models")[1])["data"]}
    assert found == {"base": None, "a": str(tmp_path / "step-3"), "c": str(tmp_path / "step-4")}


def test_a_server_is_not_whole_before_its_adapters_are_back(make: Callable[..., VllmServer], tmp_path: Path) -> None:
    server = make(restarts=1)
    server.start()
    server.load_adapter("a", tmp_path / "a")
    assert server.check() == 1
    reached, go_on = threading.Event(), threading.Event()

    def act(path: str, name: str, send: Send) -> tuple[int, str]:
        if name and in_watcher():
            reached.set()
            go_on.wait(20)
        return send()

    between(server, act)
    server._call("GET", "/die")
    assert reached.wait(20) and server.check() == 0
    go_on.set()
    until(lambda: server.check() == 2)
    assert served(server) == ["a"]


@pytest.mark.parametrize("how", ["never starts", "has no python", "cannot be launched", "has no disk", "lost a folder"])
def test_giving_up_wakes_whoever_waits_and_leaves_no_process(
    make: Callable[..., VllmServer], tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    server = make(restarts=1)
    server.start()
    server.load_adapter("a", tmp_path / "a")

    def full(kind: str, **_: object) -> None:
        raise StageError("cannot write events.jsonl (No space left on device)")

    def scarce(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    if how == "never starts":
        monkeypatch.setenv("FAKE_VLLM", "fail")
    elif how == "has no python":
        server.config = server.config.model_copy(update={"python": str(tmp_path / "gone")})
    elif how == "cannot be launched":
        monkeypatch.setattr(vllm_server.subprocess, "Popen", scarce)
    elif how == "has no disk":
        server._notify = full
    else:
        server.adapters["a"] = tmp_path / "bad"
    words = {
        "never starts": "died 2 times: ValueError: no such dtype",
        "has no python": "is not there",
        "cannot be launched": "cannot be started .*Cannot allocate memory",
        "has no disk": "No space left on device",
        "lost a folder": "did not take the adapter in .*bad: HTTP 404",
    }
    server._call("GET", "/die")
    with pytest.raises(StageError, match=words[how]):
        server.load_adapter("b", tmp_path / "b")
    with pytest.raises(StageError, match=words[how]):
        server.check()
    assert gone([pid for start in starts(log) for pid in (start["pid"], start["worker"])])


@pytest.mark.parametrize("moment", ["before the launch", "in the launch", "after the launch"])
def test_a_server_that_is_stopped_over_a_restart_leaves_no_process(
    make: Callable[..., VllmServer], tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    server = make(restarts=1)
    server.start()
    reached = threading.Event()
    launch = vllm_server.subprocess.Popen

    def pause() -> None:
        reached.set()
        server._stopping.wait(20)

    def notify(kind: str, **_: object) -> None:
        if moment == "before the launch":
            pause()

    def launched(*arguments: Any, **options: Any) -> Any:
        process = launch(*arguments, **options)
        if moment == "in the launch":
            pause()
        return process

    def act(path: str, name: str, send: Send) -> tuple[int, str]:
        if moment == "after the launch" and path == "/health":
            pause()
        return send()

    server._notify = notify
    between(server, act)
    monkeypatch.setattr(vllm_server.subprocess, "Popen", launched)
    server._call("GET", "/die")
    refused: list[str] = []

    def load() -> None:
        try:
            server.load_adapter("b", tmp_path / "b")
        except StageError as error:
            refused.append(str(error))

    waiting = threading.Thread(target=load)
    waiting.start()
    assert reached.wait(20)
    server.stop()
    waiting.join(20)
    assert server._watcher is not None and not server._watcher.is_alive() and not waiting.is_alive()
    assert len(refused) == 1 and "was stopped" in refused[0]
    assert server._guard is not None and server._guard.poll() is not None
    if moment == "before the launch":
        assert len(starts(log)) == 1
    assert gone([pid for start in starts(log) for pid in (start["pid"], start["worker"])])
