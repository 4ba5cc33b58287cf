"""One writer per run and per stage, by advisory file locks that die with their process.

A lock file's text says who holds it; the lock itself is the kernel's, so kill -9 leaves nothing to clean up.
Locks do not cross machines on network filesystems without lock support; the message names the host for that reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import RunLockedError


@contextmanager
def hold(path: Path, what: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock at `path` for the block.

    Without `wait`, a held lock raises `RunLockedError` naming host and process. With it, `wait(holder)` is called
    once and the call blocks until the lock is free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "a+", encoding="utf-8")
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(path)
            if wait is None:
                raise RunLockedError(
                    f"{what} is being written by {holder}; wait for it, or stop it and use 'harness resume'"
                ) from None
            wait(holder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}))
        handle.flush()
        yield
    finally:
        handle.close()


def _holder(path: Path) -> str:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['pid']} on host {entry['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
