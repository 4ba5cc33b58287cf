"""The life of a server process: started, refused, restarted, and ended with all that it started, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.config_models import VllmConfig
from harness.errors import PrerequisiteError, StageError
from harness.models.vllm import pool
from harness.models.vllm.command import PYTHON_VARIABLE, Weights, environment, find_python, server_command
from harness.models.vllm.server import VllmServer
from support.vllm_servers import FAKE, WEIGHTS, alive, gone, servers, stand_in, start_log, starts, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return start_log(tmp_path, monkeypatch)


@pytest.fixture
def python(tmp_path: Path) -> str:
    return stand_in(tmp_path)


@pytest.fixture
def make(python: str, tmp_path: Path) -> Iterator[Callable[..., VllmServer]]:
    yield from servers(python, tmp_path)


def test_a_server_is_started_and_ended_with_its_workers(make: Callable[..., VllmServer], log: Path) -> None:
    server = make(kv_cache_gb=1)
    server.start()
    (started,) = starts(log)
    assert started["kv"] == "1" and server.events[0][0] == "server_started"  # type: ignore[attr-defined]
    assert server.events[0][1]["version"] == "fake"  # type: ignore[attr-defined]
    server.stop()
    server.stop()
    assert gone([started["pid"], started["worker"]])


def test_a_start_that_fails_is_one_line_with_the_servers_words(
    make: Callable[..., VllmServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "fail")
    with pytest.raises(PrerequisiteError, match="did not start: ValueError: no such dtype"):
        make().start()


def test_a_server_that_never_gets_ready_is_ended(
    make: Callable[..., VllmServer], monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "never")
    server = make()
    server.config = server.config.model_copy(update={"start_seconds": 1.0})
    with pytest.raises(PrerequisiteError, match="was not ready after 1 s"):
        server.start()
    (started,) = starts(log)
    assert gone([started["pid"], started["worker"]])


def test_a_server_that_dies_comes_back_with_its_adapters_at_the_same_address(
    make: Callable[..., VllmServer], log: Path, tmp_path: Path
) -> None:
    server = make(restarts=1)
    server.start()
    for name in ("a", "b", "c"):
        server.load_adapter(name, tmp_path / name)
    assert json.loads(server._call("GET", "/version")[1])["adapters"] == ["b", "c"]
    address = server.base_url, server.key
    server._call("GET", "/die")
    until(lambda: server._call("GET", "/version")[0] == 200 and '"c"' in server._call("GET", "/version")[1])
    assert (server.base_url, server.key) == address
    assert json.loads(server._call("GET", "/version")[1])["adapters"] == ["b", "c"]
    server.check()
    server._call("GET", "/die")
    until(lambda: bool(server._failure))
    with pytest.raises(StageError, match="died 2 times"):
        server.check()
    assert gone([pid for start in starts(log) for pid in (start["pid"], start["worker"])])


def test_an_adapter_waits_for_a_server_that_is_being_started_again(
    make: Callable[..., VllmServer], tmp_path: Path
) -> None:
    server = make(restarts=1)
    server.start()
    server.load_adapter("a", tmp_path / "a")
    assert server.check()
    server._call("GET", "/die")
    assert server._call("GET", "/version")[0] == 0
    server.load_adapter("b", tmp_path / "b")
    until(server.check)
    assert sorted(json.loads(server._call("GET", "/version")[1])["adapters"]) == ["a", "b"]
    server._call("GET", "/die")
    with pytest.raises(StageError, match="died 2 times"):
        server.load_adapter("c", tmp_path / "c")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_the_run_ends_the_server(python: str, tmp_path: Path, log: Path, how: signal.Signals) -> None:
    program = (
        "import time; from pathlib import Path; from harness.config_models import VllmConfig\n"
        "from harness.models.vllm.pool import serve; from harness.models.vllm.command import Weights\n"
        f"serve(Weights('m', 'float32', None, 64), VllmConfig(python={python!r}), Path({str(tmp_path)!r}))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (started,) = starts(log)
        assert alive(started["pid"]) and alive(started["worker"])
        process.send_signal(how)
        process.wait(60)
        assert gone([started["pid"], started["worker"]])


def test_equal_weights_are_served_once(python: str, tmp_path: Path, log: Path) -> None:
    config = VllmConfig(python=python)
    try:
        first = pool.serve(WEIGHTS, config, tmp_path)
        again = pool.serve(Weights("/models/tiny", "float32", None, 512), config, tmp_path)
        assert first is again and len(starts(log)) == 1
        assert pool.serve(Weights("/models/other", "float32", None, 512), config, tmp_path) is not first
    finally:
        pool.stop_all()
    assert gone([pid for start in starts(log) for pid in (start["pid"], start["worker"])])


def test_the_command_line_holds_no_key_and_no_model_defaults() -> None:
    line = server_command("python", WEIGHTS, VllmConfig(arguments=("--seed", "1")), 8000, gpu=False)
    text = " ".join(line)
    assert "--host 127.0.0.1" in text and "--generation-config vllm" in text and text.endswith("--seed 1")
    assert "--chat-template" not in text
    dated = server_command("python", WEIGHTS, VllmConfig(), 8000, gpu=False, template=Path("fixed.jinja"))
    assert "--chat-template fixed.jinja" in " ".join(dated)
    assert "--enable-lora --max-lora-rank 8" in text and "api-key" not in text
    assert "--gpu-memory-utilization 0.45" in " ".join(server_command("python", WEIGHTS, VllmConfig(), 8000, gpu=True))
    given = environment(VllmConfig(kv_cache_gb=3, step_seconds=60), "secret")
    assert given["VLLM_CPU_KVCACHE_SPACE"] == "3" and given["VLLM_API_KEY"] == "secret"
    assert given["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] == "60"


def test_the_threads_of_mkl_are_left_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    monkeypatch.setenv("OTHER", "kept")
    given = environment(VllmConfig(), "secret")
    assert "MKL_NUM_THREADS" not in given and given["OTHER"] == "kept"


def test_ranks_are_rounded_up_to_what_vllm_takes() -> None:
    line = server_command("python", Weights("m", "float32", None, 64, 20), VllmConfig(), 1, gpu=False)
    assert line[line.index("--max-lora-rank") + 1] == "32"


def test_where_vllm_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(PrerequisiteError, match="is not there"):
        find_python(VllmConfig(python=str(tmp_path / "nothing")))
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(PrerequisiteError, match=f"^{PYTHON_VARIABLE} names"):
        find_python(VllmConfig())
    monkeypatch.setenv(PYTHON_VARIABLE, str(FAKE))
    assert find_python(VllmConfig()) == str(FAKE)
    monkeypatch.delenv(PYTHON_VARIABLE)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    with pytest.raises(PrerequisiteError, match="make setup-vllm"):
        find_python(VllmConfig())
    beside = tmp_path / ".venv-vllm" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    os.symlink(sys.executable, beside)
    assert find_python(VllmConfig()) == str(beside)
