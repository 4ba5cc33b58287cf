"""A corpus in memory for tests of contamination engines, and what the contract says of it, the slow and plain way."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence

import numpy as np

from decontam.backend import Neighbours, Phrases, Postings, Shard, Vectors


class SmallCorpus:
    """`decontam.backend.Corpus` over a list of texts and, if given, their vectors (n, d)."""

    def __init__(self, texts: Sequence[str], shard_size: int = 100, vectors: Vectors | None = None) -> None:
        self.texts = texts
        self.shard_size = shard_size
        self.vectors = vectors
        self.size = len(texts)
        self.digest = _hash(str(shard_size).encode(), *(text.encode() for text in texts))
        self.vectors_digest = None if vectors is None else _hash(self.digest.encode(), vectors.tobytes())

    def shards(self, *, skip: Container[int] = (), vectors: bool = False) -> Iterator[Shard]:
        for index, first in enumerate(range(0, self.size, self.shard_size)):
            if index not in skip:
                part = slice(first, first + self.shard_size)
                yield Shard(index, first, self.texts[part], self.vectors[part] if vectors else None)  # type: ignore[index]


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def make_phrases(phrases: Iterable[Sequence[str]]) -> Phrases:
    """Phrases from tokens; they must be distinct."""
    phrases = [tuple(p) for p in phrases]
    vocabulary = sorted({word for p in phrases for word in p})
    number = {word: i for i, word in enumerate(vocabulary)}
    ids = np.array([number[word] for p in phrases for word in p], np.int32)
    return Phrases(vocabulary, ids, np.cumsum([0, *(len(p) for p in phrases)]))


def stand_where(documents: Sequence[Sequence[str]], phrases: Phrases, cap: int | None = None) -> list[tuple[int, int]]:
    """All (document, phrase) by looking every stretch of every document up; `cap` keeps a phrase's first documents."""
    number = {phrases.words(p): p for p in range(len(phrases))}
    lengths = sorted({len(words) for words in number})
    left = [len(documents) if cap is None else cap] * len(phrases)
    found: list[tuple[int, int]] = []
    for d, tokens in enumerate(documents):
        stretches = {tuple(tokens[at : at + n]) for n in lengths for at in range(len(tokens) - n + 1)}
        for p in sorted(number[words] for words in stretches if words in number):
            if left[p] > 0:
                left[p] -= 1
                found.append((d, p))
    return found


def pairs(answers: Iterable[Postings]) -> list[tuple[int, int]]:
    """All (document, phrase) of an engine's answers, in the order in which they came."""
    return [(int(d), int(p)) for answer in answers for d, p in zip(answer.document, answer.phrase, strict=True)]


def near(answers: Iterable[Neighbours]) -> dict[tuple[int, int], float]:
    """Cosine by (document, query) of an engine's answers."""
    return {
        (int(d), int(q)): float(c)
        for answer in answers
        for d, q, c in zip(answer.document, answer.query, answer.cosine, strict=True)
    }
