"""The process between a run and a server that it started: when the run is gone, in whatever way, the server goes too.

It holds one end of a pipe whose other end the run holds. A run that is killed with -9 can tell nobody, but the kernel
closes its end, and that is what is waited for here. The server has a process group of its own, which is ended as a
whole, because a server has workers. Run as a script, with the server's command as arguments; it imports nothing of
this package, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE = 15.0
"""Seconds between asking and killing."""


def _die_with_parent() -> None:
    """On Linux, have the kernel end the server should even this process be killed."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end(server: subprocess.Popen[bytes]) -> None:
    """End the server's process group: ask, then kill."""
    for how, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            break
    # The leader may be gone while a worker is not.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)


def main(command: list[str]) -> int:
    """Start the server, and wait for its end or for the run's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    gone = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: gone.set())

    def read() -> None:
        sys.stdin.buffer.read()
        gone.set()

    threading.Thread(target=read, daemon=True).start()
    while server.poll() is None and not gone.wait(0.2):
        pass
    end(server)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
