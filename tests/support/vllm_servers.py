"""Servers on the stand-in for vLLM, `fake_vllm.py`, for tests of their life; and whether their processes live."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config_models import VllmConfig
from harness.models.vllm.command import Weights
from harness.models.vllm.server import VllmServer

FAKE = Path(__file__).with_name("fake_vllm.py")
WEIGHTS = Weights(path="/models/tiny", dtype="float32", revision=None, max_length=512, lora_rank=8)


def start_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which every process says with what it was started; none fails unless a test wants it."""
    monkeypatch.setenv("FAKE_VLLM_LOG", str(folder / "starts.jsonl"))
    monkeypatch.delenv("FAKE_VLLM", raising=False)
    return folder / "starts.jsonl"


def stand_in(folder: Path) -> str:
    """An interpreter that takes any command for a fake server's."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def servers(python: str, folder: Path) -> Iterator[Callable[..., VllmServer]]:
    """How to make servers by settings of `VllmConfig`; `events` is what one said. They are stopped afterwards."""
    made = []

    def build(**settings: Any) -> VllmServer:
        events: list[tuple[str, dict[str, Any]]] = []
        config = VllmConfig(python=python, start_seconds=30, **settings)
        server = VllmServer(WEIGHTS, config, folder / "logs", lambda kind, **fields: events.append((kind, fields)))
        server.events = events  # type: ignore[attr-defined]
        made.append(server)
        return server

    yield build
    for server in made:
        server.stop()


def starts(log: Path) -> list[dict[str, Any]]:
    """What the processes were started with, in order."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether all of these have ended, waiting for it."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def until(seen: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until `seen()` is true."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)
