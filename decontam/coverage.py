"""How much of a test item a document shares with it in n-grams: the union of covered positions, vectorised.

All fields of all items lie end to end on one line of positions, so that an n-gram of an item is a position, a
document's share of an item is a sorted set of positions, and the union of the windows that begin at them is a sum over
gaps: sum_i min(n, p_{i+1} - p_i), with n for the last of a field. The score of a document and an item is the covered
share of each field's tokens, averaged over its fields (open-instruct's `search.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Floats, Ints, Postings
from decontam.items import TestSide

_ROWS = 4_000_000
"""Positions of all documents that are held at a time."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Pairs of document and item that share n-grams: parallel arrays, sorted by (document, item).

    Pair k covers the positions `positions[first[k]:first[k + 1]]`.
    """

    document: Ints
    item: Ints
    score: Floats
    first: Ints
    positions: Ints

    def __len__(self) -> int:
        return len(self.document)

    def select(self, keep: NDArray[np.bool_]) -> Shared:
        """The pairs where `keep` is true."""
        counts = np.diff(self.first)
        return Shared(
            self.document[keep],
            self.item[keep],
            self.score[keep],
            np.concatenate(([0], np.cumsum(counts[keep]))).astype(np.int64),
            self.positions[np.repeat(keep, counts)],
        )


class Line:
    """The line of positions of a test side, and what lies on it.

    `field_at` (positions,) is the field of a position, `phrase_at` the n-gram that begins there (-1: none).
    """

    def __init__(self, side: TestSide) -> None:
        question = side.question
        self.side, self.grams = side, question.grams
        self.width = side.settings.ngram_size
        self.base: Ints = np.concatenate(([0], np.cumsum(side.length))).astype(np.int64)
        self.total = int(self.base[-1])
        self.field_at: Ints = np.repeat(np.arange(len(side.length)), side.length)
        occurrences = question.occurrences
        self._first = occurrences.first
        self._position: Ints = self.base[occurrences.field] + occurrences.start
        self.phrase_at: Ints = np.full(self.total, -1, np.int64)
        self.phrase_at[self._position] = np.repeat(np.arange(self.grams), np.diff(self._first))

    def share(self, postings: Postings) -> Iterator[Shared]:
        """The pairs of a shard, some documents at a time."""
        keep = postings.phrase < self.grams
        document, phrase = postings.document[keep], postings.phrase[keep]
        counts = self._first[phrase + 1] - self._first[phrase]
        done = np.cumsum(counts)
        start = 0
        while start < len(document):
            before = done[start - 1] if start else 0
            stop = int(np.searchsorted(done, before + _ROWS, side="right"))
            # A document's postings stay together, however many they are.
            edge = document[min(max(stop, start + 1), len(document)) - 1]
            stop = int(np.searchsorted(document, edge, side="left"))
            if stop <= start:
                stop = int(np.searchsorted(document, document[start], side="right"))
            elif int(np.searchsorted(document, edge, side="right")) == len(document):
                last = done[-1] - before
                stop = len(document) if last <= 2 * _ROWS else stop
            yield self._cover(document[start:stop], phrase[start:stop], counts[start:stop])
            start = stop

    def _cover(self, document: Ints, phrase: Ints, counts: Ints) -> Shared:
        offset = np.repeat(self._first[phrase] - (np.cumsum(counts) - counts), counts)
        position = self._position[offset + np.arange(int(counts.sum()))]
        base = int(document[0]) if len(document) else 0
        key = np.repeat((document - base) * self.total, counts) + position
        key.sort()
        document, position = np.divmod(key, max(1, self.total))
        return self.pairs(document + base, position)

    def pairs(self, document: Ints, position: Ints) -> Shared:
        """Scores of all pairs, from covered positions sorted by (document, position)."""
        if not len(position):
            none = np.zeros(0, np.int64)
            return Shared(none, none, np.zeros(0), np.zeros(1, np.int64), none)
        field = self.field_at[position]
        item = self.side.item_of[field]
        same_field = (document[1:] == document[:-1]) & (field[1:] == field[:-1])
        covered = np.full(len(position), self.width, np.int64)
        np.minimum(covered[:-1], position[1:] - position[:-1], out=covered[:-1], where=same_field)
        # First over each field, then over the fields of a pair.
        edge = np.concatenate(([0], np.flatnonzero(~same_field) + 1))
        share = np.add.reduceat(covered, edge) / self.side.length[field[edge]]
        pair_document, pair_item = document[edge], item[edge]
        new = np.ones(len(edge), np.bool_)
        new[1:] = (pair_document[1:] != pair_document[:-1]) | (pair_item[1:] != pair_item[:-1])
        begin = np.flatnonzero(new)
        score = np.add.reduceat(share, begin) / self.side.fields_of[pair_item[begin]]
        first = np.append(edge[begin], len(position)).astype(np.int64)
        return Shared(pair_document[begin], pair_item[begin], score, first, position)

    def uncommon(self, shared: Shared, common: NDArray[np.bool_]) -> Shared:
        """`shared` without positions of common n-grams, unless they lie in a run of `common_run` covered tokens.

        A pair that loses all its positions is gone. `common` (grams,) marks the n-grams.
        """
        pair = np.repeat(np.arange(len(shared)), np.diff(shared.first))
        position = shared.positions
        field = self.field_at[position]
        joined = (pair[1:] == pair[:-1]) & (field[1:] == field[:-1]) & (position[1:] == position[:-1] + 1)
        run = np.concatenate(([0], np.cumsum(~joined))) if len(position) else position
        tokens = np.bincount(run) + self.width - 1 if len(position) else run
        long_enough = tokens[run] >= self.side.settings.common_run
        keep = ~common[self.phrase_at[position]] | long_enough
        return self.pairs(shared.document[pair[keep]], position[keep])
