"""Live Elasticsearch nodes for tests: started on loopback by the program that `HARNESS_ELASTICSEARCH` names.

The program takes `-v MAJOR -p PORT -d FOLDER -m HEAP`, prints `listening on URL`, and stops on SIGTERM. A node has a
heap of 512 MB, ends with the test that started it, and ends with the process that started it should that be killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

VARIABLE = "HARNESS_ELASTICSEARCH"
VERSIONS = ("8", "9")
_NO_JAVA = 2
_PR_SET_PDEATHSIG = 1


@dataclass
class Node:
    """A running node and its folder."""

    version: str
    folder: Path
    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        """The port it listens on."""
        return urlsplit(self.url).port or 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait for that; SIGKILL leaves its folder as a crash would."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def restart(self) -> None:
        """Start it again on the same folder and port."""
        self.process, self.url = _launch(self.version, self.folder, self.port)


def start_node(version: str, folder: Path) -> Node:
    """A node of a major version on any free port; skips where the program or a Java runtime is missing."""
    return Node(version, folder, *_launch(version, folder, 0))


def _launch(version: str, folder: Path, port: int) -> tuple[subprocess.Popen[str], str]:
    program = os.environ.get(VARIABLE)
    if not program or not os.access(program, os.X_OK):
        pytest.skip(f"{VARIABLE} does not name a program that starts Elasticsearch nodes")
    # `python3` of this environment comes first, since a Java runtime may be one of its packages.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        [program, "-v", version, "-p", str(port), "-d", str(folder), "-m", "512m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
        preexec_fn=_end_with_parent,
    )
    line, until = "", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None and not line:
        if select.select([process.stdout], [], [], 0.5)[0]:
            assert process.stdout is not None
            line = process.stdout.readline()
    if "listening on " in line:
        return process, line.split("listening on ")[1].strip()
    process.kill()
    _, errors = process.communicate()
    if process.returncode == _NO_JAVA:
        pytest.skip(f"no Java runtime for Elasticsearch {version}: {errors.strip()}")
    log = folder / "node.log"
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
    raise AssertionError(f"no Elasticsearch {version} after 120 s, status {process.returncode}: {errors}\n{tail}")


def _end_with_parent() -> None:
    """Have the kernel end this process with its parent (Linux); elsewhere an orphan is the price of a killed test."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
