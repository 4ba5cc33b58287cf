"""The command line as a process of its own: started, watched through its event log, killed, and read afterwards.

As a script it is the command line with a trap: `commands.py PATTERN N ARGUMENTS...` kills itself the way `kill -9`
does just before the N-th file whose path matches PATTERN would be renamed into place. That hits moments that no
watcher from outside can.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 600.0
"""Seconds that a process may take; generous, since test machines are shared."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A finished process."""

    status: int
    out: str
    err: str


class Harness:
    """One `harness` process, with its output in files, since a full pipe would stop it."""

    def __init__(self, arguments: Sequence[str], cwd: Path, trap: tuple[str, int] | None = None) -> None:
        start = [str(Path(__file__)), trap[0], str(trap[1])] if trap else ["-m", "harness"]
        cwd.mkdir(parents=True, exist_ok=True)
        self._out, self._err = (cwd / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "100"}
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *start, *arguments], cwd=cwd, stdout=out, stderr=err, env=environment
            )

    def wait(self) -> Done:
        """Wait for the end."""
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        return Done(status, self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8"))

    def until(self, seen: Callable[[], bool]) -> None:
        """Wait until `seen()`; an end before that is a failure."""
        deadline = time.monotonic() + PATIENCE
        while not seen():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the process ended or hung before what was waited for: {self.wait()}")
            time.sleep(0.005)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> Done:
        """Send a signal and wait for the end."""
        self.process.send_signal(how)
        return self.wait()


def harness(arguments: Sequence[str], cwd: Path) -> Done:
    """Run the command line to its end."""
    return Harness(arguments, cwd).wait()


def finished(arguments: Sequence[str], cwd: Path) -> Done:
    """Run the command line to its end, which must be a good one."""
    done = harness(arguments, cwd)
    assert done.status == 0, done.err
    return done


def run_folders(runs: Path) -> list[Path]:
    """The run folders of `runs`."""
    return sorted(p.parent for p in runs.glob("*/config.yaml"))


def events(folder: Path) -> list[Event]:
    """A run's events so far; a line that is being written is left out."""
    path = folder / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def stage_folder(run: Path, name: str) -> Path:
    """Where the run's stage `name` lies."""
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return run.parent / ".stages" / str(manifest["stages"][name])


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a stage's table."""
    import pyarrow.parquet as pq

    return [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.ParquetFile(part).read().to_pylist()]


def _main() -> int:
    """The command line with a trap."""
    pattern, count, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    import harness.shards
    from harness.cli.main import main

    plain = harness.shards.replace_into
    seen = 0

    def trapped(path: Path, write: Callable[[Path], None]) -> None:
        nonlocal seen
        if re.search(pattern, str(path)):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
        plain(path, write)

    harness.shards.replace_into = trapped
    return main(arguments)


if __name__ == "__main__":
    sys.exit(_main())
