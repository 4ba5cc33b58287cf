"""Ratings that were given before, by (text, rater): a rater knows no target, so no run has to ask it twice.

One SQLite file for each rater in the cache folder. A write is one transaction under WAL, so that a killed run loses
nothing that it had kept, and several processes may share the file. Where the file cannot be used (a full disk, a
network file system without locks) ratings are given anew. What this gives up: a rating is that of the first batch it
was computed in, and differs from another batch's by rounding.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.cache import cache_home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Row: TypeAlias = NDArray[np.float64]

_SCHEMA = "CREATE TABLE IF NOT EXISTS ratings (text BLOB PRIMARY KEY, rating BLOB NOT NULL) WITHOUT ROWID"
_AT_ONCE = 500
_WAIT = 60.0


class KeptRatings:
    """The ratings of one rater, [heads] numbers a text; `identity` says which rater, `fault` why none are kept."""

    def __init__(self, identity: str, heads: int, folder: Path | None = None) -> None:
        self.path = (folder or cache_home() / "ratings") / f"{identity}.sqlite"
        self._heads = heads
        self.fault = ""

    def get(self, texts: Sequence[str]) -> dict[str, Row]:
        """The kept ones of `texts`."""
        import numpy as np

        wanted = {_key(text): text for text in texts}
        found: dict[str, Row] = {}
        for some in _parts(list(wanted)):
            marks = ",".join("?" * len(some))
            for key, rating in self._run(f"SELECT text, rating FROM ratings WHERE text IN ({marks})", some):
                row = np.frombuffer(rating, dtype="<f8")
                if len(row) == self._heads:
                    found[wanted[key]] = row
        return found

    def put(self, ratings: Mapping[str, Row]) -> None:
        """Keep the ratings of texts; those that are kept stay as they are."""
        rows = [(_key(text), row.astype("<f8").tobytes()) for text, row in ratings.items()]
        if self.fault or not rows:
            return
        try:
            with closing(self._open()) as store, store:
                store.executemany("INSERT OR IGNORE INTO ratings VALUES (?, ?)", rows)
        except (OSError, sqlite3.Error) as error:
            self.fault = str(error)

    def _run(self, query: str, values: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        if self.fault or not self.path.is_file():
            return []
        try:
            with closing(self._open()) as store:
                return store.execute(query, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            self.fault = str(error)
            return []

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(self.path, timeout=_WAIT)
        store.execute("PRAGMA journal_mode=WAL")
        store.execute(_SCHEMA)
        return store


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _parts(keys: list[bytes]) -> list[list[bytes]]:
    return [keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)]
