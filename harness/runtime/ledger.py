"""The ledger of what a run spent: tokens, calls, seconds and operations by role, stage and signal, in SQLite.

WAL mode keeps every acknowledged row through kill -9 (one writing process; not for network filesystems). The
ledger records all work that this run did, lost shards included; a stage's own account, which other runs that share the
stage see too, is in its `_DONE` marker. `usage` adds up batches of work; `calls` has every attempt at an endpoint, also
those that failed, and is what hard limits are measured by; `answers` are what endpoints said, so that a resumed run
asks and pays for nothing twice.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import StageError
from harness.models.endpoint.calls import Call, Spent
from harness.types import Usage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    at REAL NOT NULL, stage TEXT NOT NULL, signal TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, calls INTEGER NOT NULL,
    seconds REAL NOT NULL, flops REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS calls (
    at REAL NOT NULL, stage TEXT NOT NULL, signal TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL,
    host TEXT NOT NULL, status TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL NOT NULL, usd REAL,
    bound_tokens INTEGER NOT NULL, bound_usd REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, at REAL NOT NULL, answer TEXT NOT NULL);
"""


_ADVICE = {
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_READONLY: "check its permissions",
    sqlite3.SQLITE_PERM: "check its permissions",
    sqlite3.SQLITE_CANTOPEN: "check the folder's permissions",
    sqlite3.SQLITE_BUSY: "end the program that holds it",
    sqlite3.SQLITE_IOERR: "look at the disk",
}


def _advice(error: sqlite3.DatabaseError) -> str:
    """The advice to a user, by SQLite's primary code; a file that is damaged, or no database, is moved away."""
    return _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "move the file away")


class Ledger:
    """The run's `ledger.sqlite`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Calls are recorded from the thread that makes them.
        self._lock = threading.Lock()
        with self._clear_errors():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)
            tokens, usd = self._db.execute("SELECT SUM(bound_tokens), SUM(bound_usd) FROM calls").fetchone()
        self._spent = Spent(tokens or 0, usd or 0.0)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.DatabaseError as error:
            raise StageError(f"cannot write {self._path} ({error}); {_advice(error)}, then resume") from None

    def add(self, stage: str, signal: str, usage: Sequence[Usage]) -> None:
        """Append one row per usage. Raises `StageError` where the disk is full or the file is damaged."""
        now = time.time()
        rows = [
            (now, stage, signal, u.role, u.model, u.prompt_tokens, u.completion_tokens, u.calls, u.seconds, u.flops)
            for u in usage
        ]
        with self._clear_errors():
            self._db.executemany("INSERT INTO usage VALUES (?,?,?,?,?,?,?,?,?,?)", rows)

    def add_call(self, stage: str, signal: str, call: Call) -> None:
        """Append one attempt at an endpoint."""
        row = (
            *(time.time(), stage, signal, call.role, call.model, call.host, call.status, call.finish_reason),
            *(call.prompt_tokens, call.completion_tokens, call.seconds, call.usd, call.bound_tokens, call.bound_usd),
        )
        with self._clear_errors():
            self._db.execute("INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
            self._spent = Spent(self._spent.tokens + call.bound_tokens, self._spent.usd + call.bound_usd)

    @property
    def spent(self) -> Spent:
        """The amounts that count toward hard limits, over all processes that worked on this run."""
        return self._spent

    def answer(self, key: str) -> Mapping[str, Any] | None:
        """A stored answer of an endpoint."""
        with self._clear_errors():
            row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return dict(json.loads(row[0])) if row else None

    def keep_answer(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an endpoint's answer."""
        text = json.dumps(answer, ensure_ascii=False)
        with self._clear_errors():
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?,?,?)", (key, time.time(), text))

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
