"""`events.jsonl`: what a run did, appended line by line; a torn last line of a killed process is ignored on reading."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.shards import write_failure


class EventLog:
    """Appends events; each line is one write of one JSON object. Raises `StageError` where that cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
            if path.stat().st_size and not _ends_with_newline(path):
                self._handle.write("\n")
        except OSError as error:
            raise write_failure(path, error) from None

    def add(self, kind: str, **fields: Any) -> None:
        """Append one event with the time and the process id."""
        entry = {"at": round(time.time(), 3), "pid": os.getpid(), "event": kind, **fields}
        line = json.dumps(entry, ensure_ascii=False)
        try:
            self._handle.write(line + "\n")
        except OSError as error:
            raise write_failure(self._path, error) from None

    def close(self) -> None:
        """Close the file. What a full disk has already refused is not worth a second error."""
        with suppress(OSError):
            self._handle.close()


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a run; lines that a kill tore are skipped."""
    with open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                yield json.loads(line)
            except ValueError:
                continue
