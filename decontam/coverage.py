"""The share of a test item that a document has in n-grams: the union of covered positions, vectorised.

All fields of all items lie end to end on one line of positions, so that an n-gram of an item is a position, a
document's share of an item is a sorted set of positions, and the union of the windows that begin at them is a sum over
gaps: sum_i min(n, p_{i+1} - p_i), with n for the last of a field. The score of a document and an item is the covered
share of each field's tokens, averaged over its fields. Open-instruct's `search.py` averages over all alike, so that an
option of two words, which no n-gram can find, counts as missed; here short fields weigh less (`Line.weight`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
            document=self.document[keep],
            item=self.item[keep],
            score=self.score[keep],
            first=np.concatenate(([0], np.cumsum(counts[keep]))).astype(np.int64),
            positions=self.positions[np.repeat(keep, counts)],
        )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of neighbouring n-grams: pair, place among the positions, n-grams, tokens, and if it is a whole field."""

    pair: Ints
    begin: Ints
    grams: Ints
    tokens: Ints
    whole: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Alone:
    """N-grams of documents, sorted, each once: how many tokens before it its run begins, and the run's tokens."""

    document: Ints
    phrase: Ints
    offset: Ints
    tokens: Ints


class Line:
    """The line of positions of a test side, and what lies on it.

    `field_at` (positions,) is the field of a position, `phrase_at` the n-gram that begins there (-1: none), `weight`
    (fields,) what a field counts for.
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
        self.weight: Floats = self._weights()
        self._total: Floats = np.bincount(side.item_of, self.weight, len(side.items)).astype(np.float64)

    def _weights(self) -> Floats:
        """The weight of each field in its item: as many n-grams as it has, up to those of `common_run` tokens.

        A field too short for an n-gram can share none and counts for nothing; fields from `common_run` tokens on count
        alike. Under open-instruct's rules all do.
        """
        settings = self.side.settings
        if settings.compat == "open-instruct":
            return np.ones(len(self.side.length))
        most = max(1, settings.common_run - self.width + 1)
        return np.clip(self.side.length - self.width + 1, 0, most).astype(np.float64)

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

    def pairs(self, document: Ints, position: Ints, weight: Floats | None = None) -> Shared:
        """Scores of all pairs, from covered positions sorted by (document, position), and how much each counts."""
        if not len(position):
            none = np.zeros(0, np.int64)
            return Shared(document=none, item=none, score=np.zeros(0), first=np.zeros(1, np.int64), positions=none)
        field = self.field_at[position]
        item = self.side.item_of[field]
        same_field = (document[1:] == document[:-1]) & (field[1:] == field[:-1])
        covered = np.full(len(position), self.width, np.int64)
        np.minimum(covered[:-1], position[1:] - position[:-1], out=covered[:-1], where=same_field)
        # First over each field, then over the fields of a pair.
        edge = np.concatenate(([0], np.flatnonzero(~same_field) + 1))
        counted = covered if weight is None else covered * weight
        share = np.add.reduceat(counted, edge) / self.side.length[field[edge]] * self.weight[field[edge]]
        pair_document, pair_item = document[edge], item[edge]
        new = np.ones(len(edge), np.bool_)
        new[1:] = (pair_document[1:] != pair_document[:-1]) | (pair_item[1:] != pair_item[:-1])
        begin = np.flatnonzero(new)
        score = np.add.reduceat(share, begin) / self._total[pair_item[begin]]
        first = np.append(edge[begin], len(position)).astype(np.int64)
        return Shared(
            document=pair_document[begin], item=pair_item[begin], score=score, first=first, positions=position
        )

    def weighed(self, shared: Shared, rare: Floats) -> Shared:
        """`shared` with every covered token counted by the weight of its run, under the weights `rare` (grams,).

        A run is as rare as its rarest n-gram. From one n-gram up to `common_run` tokens its length makes up for
        commonness, by the square of the way; a run that is a whole field of `min_tokens` or more counts in full.
        """
        if not len(shared):
            return shared
        runs = self._runs(shared)
        best = np.maximum.reduceat(rare[self.phrase_at[shared.positions]], runs.begin)
        reach = self.side.settings.common_run - self.width
        way = np.clip((runs.tokens - self.width) / reach, 0, 1) if reach > 0 else np.ones(len(best))
        weight = np.where(runs.whole, 1.0, best + (1 - best) * way**2)
        document = np.repeat(shared.document, np.diff(shared.first))
        return self.pairs(document, shared.positions, np.repeat(weight, runs.grams))

    def alone(self, shared: Shared, copy: float) -> Alone:
        """The n-grams of runs that are all that a document and an item share: not long, no whole field, and of the item
        no more than the share `copy`. Where a document has an n-gram in several such runs, the longest counts."""
        if not len(shared):
            none = np.zeros(0, np.int64)
            return Alone(none, none, none, none)
        runs = self._runs(shared)
        counts = np.bincount(runs.pair, minlength=len(shared))
        single = (counts == 1) & (shared.score <= copy)
        keep = single[runs.pair] & ~runs.whole & (runs.tokens < max(self.side.settings.common_run, self.width + 1))
        grams = runs.grams[keep]
        phrase = self.phrase_at[shared.positions[np.repeat(keep, runs.grams)]]
        document = np.repeat(shared.document[runs.pair[keep]], grams)
        offset = np.arange(len(phrase)) - np.repeat(np.cumsum(grams) - grams, grams)
        tokens = np.repeat(runs.tokens[keep], grams)
        order = np.lexsort((offset, -tokens, phrase, document))
        new = np.ones(len(order), np.bool_)
        new[1:] = (np.diff(document[order]) != 0) | (np.diff(phrase[order]) != 0)
        first = order[new]
        return Alone(document[first], phrase[first], offset[first], tokens[first])

    @cached_property
    def texts_of(self) -> Ints:
        """The number of test texts that hold each n-gram (grams,), equal texts counted once."""
        side = self.side
        ends = side.starts[1:]
        texts = [side.ids[start:end].tobytes() for start, end in zip(side.starts, ends, strict=False)]
        number: dict[bytes, int] = {}
        text_of = np.array([number.setdefault(text, len(number)) for text in texts], np.int64)
        at = np.flatnonzero(self.phrase_at >= 0)
        key = np.unique(self.phrase_at[at] * max(1, len(number)) + text_of[self.field_at[at]])
        return np.bincount(key // max(1, len(number)), minlength=self.grams)

    def _runs(self, shared: Shared) -> _Runs:
        pair = np.repeat(np.arange(len(shared)), np.diff(shared.first))
        position = shared.positions
        field = self.field_at[position]
        joined = (pair[1:] == pair[:-1]) & (field[1:] == field[:-1]) & (position[1:] == position[:-1] + 1)
        begin = np.concatenate(([0], np.flatnonzero(~joined) + 1))
        grams = np.diff(np.append(begin, len(position)))
        tokens = grams + self.width - 1
        length = self.side.length[field[begin]]
        whole = (tokens == length) & (length >= self.side.settings.min_tokens)
        return _Runs(pair=pair[begin], begin=begin, grams=grams, tokens=tokens, whole=whole)
