"""`events.jsonl`: what a run did, appended line by line; a torn last line of a killed process is ignored on reading."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events; each line is one write of one JSON object."""

    def __init__(self, path: Path) -> None:
        self._handle = open(path, "a", encoding="utf-8", buffering=1)
        if path.stat().st_size and not _ends_with_newline(path):
            self._handle.write("\n")

    def add(self, kind: str, **fields: Any) -> None:
        """Append one event with the time and the process id."""
        line = json.dumps({"at": round(time.time(), 3), "pid": os.getpid(), "event": kind, **fields}, ensure_ascii=False)
        self._handle.write(line + "\n")

    def close(self) -> None:
        """Close the file."""
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
