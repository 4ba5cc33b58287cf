"""The rarity of an n-gram: in how many unrelated texts it stands, on both sides.

A phrase that people use ("play an important role in") stands in texts that have nothing else in common; a leaked item
stands in copies of one text. So a document is evidence that an n-gram is stock only where the run of n-grams around it
is all that it shares with the item, is no more than `COPY` of it, and is neither a whole field nor long; and documents
in which the run follows the same words, or goes on with the same words, are one (`SIDE` tokens, any number for any
other): the smaller of the two counts is the evidence. So more copies of a leak are no evidence against it, be they
whole, cut, changed in a word, or numbered.

Test texts that share an n-gram, equal ones once, are stronger evidence: it says the less of which item it is, however
large the corpus. E documents and T other test texts make a weight 1 / (1 + E / limit + T / `TEMPLATE`), without a step.
A run of shared n-grams is as rare as its rarest, and counts the more fully the longer it is (`decontam.coverage`).

What it gives up: a small part of an item that always stands between other words cannot be told from a phrase that
people use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from decontam.backend import Floats, Ints, Places, Postings
from decontam.coverage import Line, Shared
from decontam.embedded import PhraseTable
from decontam.rolling import Hashes, mixed, prefix
from decontam.tokens import NUMBER

COPY = 2 / 3
"""A document that shares more of an item than this is taken for a copy of it."""
TEMPLATE = 3
"""Other test texts with an n-gram that halve what it counts: beyond them it is a template's and no item's."""
SIDE = 3
"""Tokens on either side of a run that tell one text from another."""
MOST = 128
"""Contexts of an n-gram that are kept, those with the smallest hashes; more are estimated from them."""


@dataclass(frozen=True, slots=True)
class Around:
    """Surroundings of n-grams, before and behind, as hashes: on each side pairs of n-gram and hash, sorted, once."""

    left_phrase: Ints
    left: Hashes
    right_phrase: Ints
    right: Hashes


_NONE = (np.zeros(0, np.int64), np.zeros(0, np.uint64))
NOTHING = Around(*_NONE, *_NONE)


class Contexts:
    """The places where n-grams stand for themselves, as hashes of what stands around them."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._table: PhraseTable | None = None
        vocabulary = line.side.vocabulary
        self._same: Ints = np.arange(len(vocabulary), dtype=np.int64)
        self._same[[number for word, number in vocabulary.items() if word.isdecimal()]] = NUMBER

    def of(self, postings: Postings, shared: Iterable[Shared]) -> Around:
        """The surroundings of the n-grams of a shard, before and behind."""
        parts = [self._line.alone(part, COPY) for part in shared]
        if not parts:
            return NOTHING
        document, phrase, offset, tokens = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("document", "phrase", "offset", "tokens")
        )
        places = postings.places or self._places(postings)
        keep = postings.phrase < self._line.grams
        key = postings.document[keep] * self._line.grams + postings.phrase[keep]
        first = places.first[keep][np.searchsorted(key, document * self._line.grams + phrase)]
        stands = first >= 0
        document, phrase = document[stands] - postings.shard.first, phrase[stands]
        start, stop = places.starts[document], places.starts[document + 1] - 1
        low = np.maximum(first[stands] - offset[stands], start)
        high = np.minimum(low + tokens[stands], stop)
        ids = places.ids.astype(np.int64)
        known = ids >= 0
        ids[known] = self._same[ids[known]]
        sums, inverse = prefix(mixed(ids))
        before, behind = np.maximum(low - SIDE, start), np.minimum(high + SIDE, stop)
        left = (sums[low] - sums[before]) * inverse[before]
        right = (sums[behind] - sums[high]) * inverse[high]
        # At the edge of a text nothing is said of this side, so the other speaks for it.
        return Around(
            *fewest(phrase, np.where(before < low, left, right)), *fewest(phrase, np.where(high < behind, right, left))
        )

    def _places(self, postings: Postings) -> Places:
        """The places of postings, for an engine that does not say."""
        phrases = self._line.side.question.phrases
        if self._table is None:
            self._table = PhraseTable(phrases)
        document, phrase, places = self._table.look(postings.shard)
        key = document * len(phrases) + phrase
        asked = postings.document * len(phrases) + postings.phrase
        at = np.minimum(np.searchsorted(key, asked), max(0, len(key) - 1))
        # Tokens of letters newer than the analyzer's tables are known here and not there, or the other way round.
        first = np.where(key[at] == asked, places.first[at], -1) if len(key) else np.full(len(asked), -1, np.int64)
        return Places(places.ids, places.starts, first)


def fewest(phrase: Ints, context: Hashes) -> tuple[Ints, Hashes]:
    """The distinct contexts of every n-gram, sorted; the `MOST` with the smallest hashes where there are more."""
    order = np.lexsort((context, phrase))
    phrase, context = phrase[order], context[order]
    new = np.ones(len(phrase), np.bool_)
    new[1:] = (phrase[1:] != phrase[:-1]) | (context[1:] != context[:-1])
    phrase, context = phrase[new], context[new]
    keep = np.arange(len(phrase)) - np.searchsorted(phrase, phrase) < MOST
    return phrase[keep], context[keep]


def evidence_of(line: Line, found: Iterable[Around]) -> Floats:
    """The number of unrelated texts beside the first that stand for every n-gram (grams,), on both sides."""
    left, right = _NONE, _NONE
    for more in found:
        left = fewest(np.concatenate([left[0], more.left_phrase]), np.concatenate([left[1], more.left]))
        right = fewest(np.concatenate([right[0], more.right_phrase]), np.concatenate([right[1], more.right]))
    count = np.minimum(_count(line.grams, *left), _count(line.grams, *right))
    evidence: Floats = np.maximum(count - 1, 0) + others_of(line)
    return evidence


def others_of(line: Line) -> Ints:
    """The number of test texts beside the first that hold every n-gram (grams,)."""
    others: Ints = np.maximum(line.texts_of - 1, 0)
    return others


def _count(grams: int, phrase: Ints, context: Hashes) -> Floats:
    """Contexts of every n-gram; where no more than `MOST` were kept, as many as lie so densely."""
    count = np.bincount(phrase, minlength=grams).astype(np.float64)
    full = np.flatnonzero(count == MOST)
    # Of hashes spread evenly over 64 bits, the k-th smallest of n lies near k / n.
    last = context[np.searchsorted(phrase, full, side="right") - 1].astype(np.float64) / 2.0**64
    count[full] = np.maximum(MOST, (MOST - 1) / np.maximum(last, 1e-12))
    return count


def weights(evidence: Floats, others: Ints, limit: int | None) -> Floats:
    """The weight of every n-gram, from 1 for none down, by its evidence, of which `others` are test texts.

    Half at `limit` documents or `TEMPLATE` test texts. All are 1 where there is no limit.
    """
    if limit is None:
        return np.ones(len(evidence))
    return np.asarray(np.reciprocal(1 + (evidence - others) / limit + others / TEMPLATE), np.float64)
