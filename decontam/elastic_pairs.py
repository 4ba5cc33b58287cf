"""Pairs on disk: what a server answers by query, to be read by shard of documents.

Elasticsearch is asked query by query and a check goes on shard by shard, so the answers in between have to be turned
round, and there may be more of them than memory holds. Every batch of queries becomes one file, sorted by document
and renamed into place; a shard is then a slice of every file, read through a memory map. A batch that has a file need
not be asked again, so a killed search goes on where it was.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Floats, Ints
from harness.shards import replace_into

_PAIR = np.dtype([("document", np.int64), ("query", np.int64), ("cosine", np.float64)])


class CosinePairs:
    """(document, query, cosine) in files of `folder`, one per batch. Cosine is 0 where there is none."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, with what an earlier run left there."""
        self._folder = folder

    def has(self, batch: int) -> bool:
        """Whether a batch's answers are there."""
        return self._path(batch).exists()

    def write(self, batch: int, document: Ints, query: Ints, cosine: Floats | None = None) -> None:
        """Keep a batch's pairs, in any order. Raises `StageError` where the disk is full."""
        pairs = np.zeros(len(document), _PAIR)
        pairs["document"], pairs["query"] = document, query
        if cosine is not None:
            pairs["cosine"] = cosine
        pairs = pairs[np.lexsort((query, document))]

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, pairs)

        replace_into(self._path(batch), save)

    def slice(self, batches: int, first: int, last: int) -> NDArray[np.void]:
        """Pairs of the documents from `first` up to but not `last`, of all batches, sorted by (document, query)."""
        found = []
        for batch in range(batches):
            stored = np.load(self._path(batch), mmap_mode="r")
            start, end = np.searchsorted(stored["document"], (first, last))
            found.append(np.array(stored[start:end]))
        pairs: NDArray[np.void] = np.concatenate(found) if found else np.zeros(0, _PAIR)
        order = np.lexsort((pairs["query"], pairs["document"]))
        sorted_pairs: NDArray[np.void] = np.take(pairs, order)
        return sorted_pairs

    def delete(self) -> None:
        """Remove everything: the answers have been read."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, batch: int) -> Path:
        return self._folder / f"pairs-{batch:08d}.npy"
