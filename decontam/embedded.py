"""The engine that needs no server: phrases by rolling hashes over the documents' token ids, cosines in blocks.

The query side is hashed once; documents stream past it, so memory does not depend on their number. Windows of token ids
are hashed by `decontam.rolling`, with a random 64-bit value for each id. Equal windows have equal hashes, so nothing is
missed; unequal ones may collide, so every hit is compared token by token before it counts. A phrase is looked up by its
first `ANCHOR` tokens at most, so that the number of window lengths, and with it the work per token of the corpus, stays
small however long phrases are.

What it gives up: an index that outlives the check. Asking twice means reading twice, which at some millions of tokens a
second is cheaper than keeping one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Corpus, Floats, Ints, Neighbours, Phrases, Places, Postings, Shard, Vectors
from decontam.rolling import Hashes, prefix
from decontam.tokens import BREAK, UNKNOWN, TokenIds

ANCHOR = 8
"""Tokens of a phrase that are hashed; the rest is compared where they are found."""
BLOCK = 4096
"""Rows of the query matrix that are multiplied with a shard at a time."""

_FILTER_BITS = 22


@dataclass(frozen=True, slots=True)
class _Table:
    """Anchors of one length: their sorted hashes, and per distinct hash the phrases that have it.

    Anchor a belongs to phrases `phrases[first[a]:first[a + 1]]`; `seen` is a bit table over the hashes' top bits, which
    turns most windows away before the binary search.
    """

    length: int
    hashes: Hashes
    first: Ints
    phrases: Ints
    seen: NDArray[np.bool_]


class _Hasher:
    """Window hashes over token ids; ids may be negative (`UNKNOWN`, `BREAK`)."""

    def __init__(self, vocabulary: int) -> None:
        random = np.random.default_rng(20240604)
        self._value = random.integers(0, 2**64, size=vocabulary + 2, dtype=np.uint64, endpoint=False)

    def prefix(self, ids: NDArray[np.int32]) -> tuple[Hashes, Hashes]:
        """Prefix sums (n + 1,) and inverse powers (n + 1,): see `rolling.prefix`."""
        # Negative ids count from the end of the table: its last two values are for breaks and for all unknown tokens.
        return prefix(self._value[np.where(ids < BREAK, UNKNOWN, ids)])

    def windows(self, sums: Hashes, inverse: Hashes, length: int) -> Hashes:
        """The hash of every window of `length` tokens, (n - length + 1,)."""
        count = max(0, len(sums) - length)
        return (sums[length:] - sums[:count]) * inverse[:count]


class PhraseTable:
    """Phrases prepared for lookup."""

    def __init__(self, phrases: Phrases) -> None:
        self.phrases = phrases
        self.tokens = TokenIds({word: i for i, word in enumerate(phrases.vocabulary)})
        self._hasher = _Hasher(len(phrases.vocabulary))
        lengths = phrases.lengths
        anchors = np.minimum(lengths, ANCHOR)
        sums, inverse = self._hasher.prefix(phrases.ids)
        self._tables = []
        for length in np.unique(anchors):
            which = np.flatnonzero(anchors == length)
            start = phrases.starts[which]
            hashes = (sums[start + length] - sums[start]) * inverse[start]
            self._tables.append(_table(int(length), hashes, which))

    def find(self, ids: NDArray[np.int32]) -> tuple[Ints, Ints]:
        """The places where phrases begin in `ids`: positions and phrases, unsorted, every occurrence."""
        sums, inverse = self._hasher.prefix(ids)
        where: list[Ints] = []
        which: list[Ints] = []
        for table in self._tables:
            windows = self._hasher.windows(sums, inverse, table.length)
            likely = np.flatnonzero(table.seen[windows >> np.uint64(64 - _FILTER_BITS)])
            if not len(likely):
                continue
            hashes = windows[likely]
            anchor = np.minimum(np.searchsorted(table.hashes, hashes), len(table.hashes) - 1)
            hit = table.hashes[anchor] == hashes
            found = anchor[hit]
            position, phrase = _expand(likely[hit], table.first[found], table.first[found + 1], table.phrases)
            equal = self._equal(ids, position, phrase)
            where.append(position[equal])
            which.append(phrase[equal])
        if not where:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(where), np.concatenate(which)

    def look(self, shard: Shard) -> tuple[Ints, Ints, Places]:
        """Documents and phrases of a shard, sorted, pairs once, with their places."""
        ids, starts = self.tokens.of(shard.plain)
        position, phrase = self.find(ids)
        document = np.searchsorted(starts, position, side="right") - 1
        # Pairs once, by (document, phrase): one integer sorts faster than two. Of equal pairs the first comes first.
        size = max(1, len(self.phrases))
        pairs, first = np.unique(document * size + phrase, return_index=True)
        document, phrase = np.divmod(pairs, size)
        return document + shard.first, phrase, Places(ids, starts, position[first])

    def _equal(self, ids: NDArray[np.int32], position: Ints, phrase: Ints) -> NDArray[np.bool_]:
        """Whether `phrase` really stands at `position`, token by token."""
        starts, lengths = self.phrases.starts[phrase], self.phrases.lengths[phrase]
        equal = position + lengths <= len(ids)
        for k in range(int(lengths.max(initial=0))):
            open_ = np.flatnonzero(equal & (lengths > k))
            if not len(open_):
                break
            equal[open_] = ids[position[open_] + k] == self.phrases.ids[starts[open_] + k]
        return equal


def _table(length: int, hashes: Hashes, phrases: Ints) -> _Table:
    order = np.argsort(hashes, kind="stable")
    distinct, first = np.unique(hashes[order], return_index=True)
    seen = np.zeros(1 << _FILTER_BITS, np.bool_)
    seen[distinct >> np.uint64(64 - _FILTER_BITS)] = True
    return _Table(
        length=length,
        hashes=distinct,
        first=np.append(first, len(order)).astype(np.int64),
        phrases=phrases[order],
        seen=seen,
    )


def _expand(position: Ints, low: Ints, high: Ints, phrases: Ints) -> tuple[Ints, Ints]:
    """Every position with each of the phrases `phrases[low:high]` that its anchor has."""
    count = high - low
    begin = np.repeat(low - np.concatenate(([0], np.cumsum(count)[:-1])), count) if len(count) else low
    return np.repeat(position, count), phrases[begin + np.arange(int(count.sum()))]


class EmbeddedBackend:
    """The engine in this process."""

    @property
    def name(self) -> str:
        """For reports."""
        return "embedded"

    def find(
        self, corpus: Corpus, phrases: Phrases, *, cap: int | None = None, skip: Container[int] = ()
    ) -> Iterator[Postings]:
        """See `Backend.find`."""
        table = PhraseTable(phrases)
        found = np.zeros(len(phrases), np.int64)
        for shard in corpus.shards(skip=skip):
            document, phrase, places = table.look(shard)
            if cap is not None:
                keep = _within(phrase, found, cap)
                found += np.bincount(phrase, minlength=len(phrases))
                document, phrase = document[keep], phrase[keep]
                places = Places(places.ids, places.starts, places.first[keep])
            yield Postings(shard, document, phrase, places)

    def nearest(
        self, corpus: Corpus, queries: Vectors, *, floor: float, top: int | None = None, skip: Container[int] = ()
    ) -> Iterator[Neighbours]:
        """See `Backend.nearest`. Products are float32 in blocks; a pair's cosine is then taken in float64."""
        for shard in corpus.shards(skip=skip, vectors=True):
            assert shard.vectors is not None
            documents: list[Ints] = [np.zeros(0, np.int64)]
            asked: list[Ints] = [np.zeros(0, np.int64)]
            cosines: list[Floats] = [np.zeros(0)]
            for start in range(0, len(queries), BLOCK):
                block = queries[start : start + BLOCK]
                row, document = _near(block @ shard.vectors.T, floor, top)
                exact = np.einsum("ij,ij->i", block[row].astype(np.float64), shard.vectors[document].astype(np.float64))
                keep = exact >= floor if top is None else np.ones(len(exact), np.bool_)
                documents.append(document[keep] + shard.first)
                asked.append(row[keep] + start)
                cosines.append(exact[keep])
            document, query = np.concatenate(documents), np.concatenate(asked)
            order = np.lexsort((query, document))
            yield Neighbours(shard, document[order], query[order], np.concatenate(cosines)[order])

    def close(self) -> None:
        """Nothing to let go of."""


_SLACK = 1e-4
"""How far below the floor a float32 product is still looked at in float64."""


def _near(products: Vectors, floor: float, top: int | None) -> tuple[Ints, Ints]:
    """Rows and columns of the products that may count."""
    if top is None:
        row, column = np.nonzero(products >= floor - _SLACK)
    elif products.shape[1] <= top:
        row, column = np.nonzero(np.ones_like(products, np.bool_))
    else:
        # Ties at the edge are all kept; who needs exactly `top` breaks them by document.
        edge = np.partition(products, products.shape[1] - top, axis=1)[:, products.shape[1] - top]
        row, column = np.nonzero(products >= edge[:, None] - _SLACK)
    return row.astype(np.int64), column.astype(np.int64)


def _within(phrase: Ints, found: Ints, cap: int) -> NDArray[np.bool_]:
    """The postings, in order of document, that are among the first `cap` of their phrase; `found` came before."""
    order = np.argsort(phrase, kind="stable")
    ordered = phrase[order]
    first = np.searchsorted(ordered, ordered, side="left")
    rank = np.arange(len(order)) - first
    keep = np.zeros(len(phrase), np.bool_)
    keep[order] = found[ordered] + rank < cap
    return keep
