"""Okapi BM25 against a fixed collection: the collection's items are the queries, what is scored are the documents.

Inverse document frequencies and the average length come from the collection alone, so that a document's score depends
on nothing that was scored beside it; a search engine takes them from the documents instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from decontam.tokens import clean
from decontam.tokens import token_texts as tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]


class Bm25:
    """BM25 of documents for each of `queries`, with statistics of the first `collection` of them (None: all).

        score(q, d) = Σ_{t ∈ q} idf(t) · tf(t, d) · (k1 + 1) / (tf(t, d) + k1 · (1 − b + b · |d| / avgdl))
        idf(t)      = ln(1 + (N − n(t) + 0.5) / (n(t) + 0.5))

    after Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", Eq. 3.15, a term that
    stands in the query twice counting twice (k3 → ∞), and with the idf of Lucene, which is never negative.
    """

    def __init__(self, queries: Sequence[str], k1: float, b: float, collection: int | None = None) -> None:
        from scipy.sparse import csr_matrix

        self._k1, self._b = k1, b
        words = [tokens(clean(text)) for text in queries]
        own = words[: collection if collection is not None else len(words)]
        self._average = max(1.0, sum(map(len, own)) / max(1, len(own)))
        self._terms = {term: i for i, term in enumerate(sorted({t for item in words for t in item}))}
        having = Counter(t for item in own for t in set(item))
        idf = {t: math.log(1 + (len(own) - having[t] + 0.5) / (having[t] + 0.5)) for t in self._terms}
        cells = [(row, t, n * idf[t]) for row, item in enumerate(words) for t, n in Counter(item).items()]
        places = ([c[0] for c in cells], [self._terms[c[1]] for c in cells])
        self._queries: Any = csr_matrix(([c[2] for c in cells], places), shape=(len(words), len(self._terms)))

    def scores(self, documents: Sequence[str]) -> Matrix:
        """BM25 of every document for every query: [documents, queries], float64."""
        import numpy as np

        saturated = np.zeros((len(self._terms), len(documents)))
        for column, text in enumerate(documents):
            words = tokens(clean(text))
            scale = self._k1 * (1 - self._b + self._b * len(words) / self._average)
            for term, count in Counter(words).items():
                if term in self._terms:
                    saturated[self._terms[term], column] = count * (self._k1 + 1) / (count + scale)
        scores: Matrix = (self._queries @ saturated).T
        return scores
