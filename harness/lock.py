"""One writer per run and per stage, by advisory file locks that die with their process.

A lock file's text says who holds it; the lock itself is the kernel's, so kill -9 leaves nothing to clean up.
Locks do not cross machines on network filesystems without lock support; the message names the host for that reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO

from harness.errors import RunLockedError
from harness.shards import write_failure


@contextmanager
def hold(path: Path, what: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock at `path` for the block.

    Without `wait`, a held lock raises `RunLockedError` naming host and process. With it, `wait(holder)` is called
    once and the call blocks until the lock is free.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise write_failure(path, error) from None
    try:
        if not _take(handle):
            holder = _holder(path)
            if wait is None:
                raise RunLockedError(
                    f"{what} is being written by {holder}; wait for it, or stop it and use 'harness resume'"
                )
            wait(holder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        _sign(handle, path)
        yield
    finally:
        handle.close()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`."""
    try:
        with open(path, "rb") as handle:
            return not _lock(handle, fcntl.LOCK_SH)
    except OSError:
        return False


def _take(handle: FileIO) -> bool:
    """Take the lock; False where somebody holds it.

    Who asks `is_held` shares the lock for a moment, and that must not pass for a holder: a lock that can be shared has
    none, and is asked for again.
    """
    while not _lock(handle, fcntl.LOCK_EX):
        if not _lock(handle, fcntl.LOCK_SH):
            return False
        # Not kept: another process that is here too could never have it for its own.
        fcntl.flock(handle, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.001, 0.01))
    return True


def _lock(handle: IO[bytes] | FileIO, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(handle: FileIO, path: Path) -> None:
    entry = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    try:
        handle.truncate(0)
        handle.write(json.dumps(entry).encode())
    except OSError as error:
        raise write_failure(path, error) from None


def _holder(path: Path) -> str:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['pid']} on host {entry['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
