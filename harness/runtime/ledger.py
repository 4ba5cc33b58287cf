"""What a run spent: tokens, calls, seconds and operations by role, stage and signal, in SQLite.

WAL mode keeps every acknowledged row through kill -9 (one writing process; not for network filesystems). The
ledger records all work that this run did, lost shards included; a stage's own account, which other runs that share the
stage see too, is in its `_DONE` marker.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import StageError
from harness.types import Usage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    at REAL NOT NULL, stage TEXT NOT NULL, signal TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, calls INTEGER NOT NULL,
    seconds REAL NOT NULL, flops REAL NOT NULL
)
"""


class Ledger:
    """The run's `ledger.sqlite`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._clear_errors():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StageError(f"cannot write {self._path} ({error}); free space or move it, then resume") from None

    def add(self, stage: str, signal: str, usage: Sequence[Usage]) -> None:
        """Append one row per usage. Raises `StageError` where the disk is full or the file is damaged."""
        now = time.time()
        rows = [
            (now, stage, signal, u.role, u.model, u.prompt_tokens, u.completion_tokens, u.calls, u.seconds, u.flops)
            for u in usage
        ]
        with self._clear_errors():
            self._db.executemany("INSERT INTO usage VALUES (?,?,?,?,?,?,?,?,?,?)", rows)

    def by_role_and_stage(self) -> list[tuple[str, str, str, int, int, int, float, float]]:
        """Totals: role, stage, signal, prompt tokens, completion tokens, calls, seconds, flops."""
        return list(
            self._db.execute(
                "SELECT role, stage, signal, SUM(prompt_tokens), SUM(completion_tokens), SUM(calls), SUM(seconds),"
                " SUM(flops) FROM usage GROUP BY role, stage, signal ORDER BY MIN(at)"
            )
        )

    def close(self) -> None:
        """Close the database."""
        self._db.close()
