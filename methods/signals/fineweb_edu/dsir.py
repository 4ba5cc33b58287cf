"""DSIR's log-ratio of hashed n-grams (Xie et al., arXiv 2302.03169 §3), as its package `data-selection` computes it.

Words are runs of word characters, or of signs, of the text in small letters. Every n-gram up to the longest is hashed
(SHA-256) into one of the buckets. A text's log importance weight is Σ_b c_b (ln p_b - ln q_b) over its counts c, with p
and q the buckets' shares in the reference and in raw text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import regex

from harness.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Row = NDArray[np.float64]

# regex and re differ over fractions such as ½; the package goes by regex.
_WORDS = regex.compile(r"\w+|[^\w\s]+")
_SMALL = 1e-8
"""What is added to every share before its logarithm, as in the package."""


@lru_cache(maxsize=1 << 18)
def bucket(gram: str, buckets: int) -> int:
    """The bucket of an n-gram whose words are joined by blanks."""
    return int.from_bytes(hashlib.sha256(gram.encode("utf-8", "surrogatepass")).digest(), "big") % buckets


def counts(text: str, ngrams: int, buckets: int) -> Counter[int]:
    """How often each bucket occurs among the text's n-grams of every length up to `ngrams`."""
    words = _WORDS.findall(text.lower())
    found: Counter[int] = Counter()
    for size in range(1, ngrams + 1):
        found.update(bucket(" ".join(words[i : i + size]), buckets) for i in range(len(words) - size + 1))
    return found


class LogRatio:
    """ln p - ln q by bucket, of reference texts (p) and raw ones (q)."""

    def __init__(self, reference: Iterable[str], raw: Iterable[str], ngrams: int, buckets: int) -> None:
        import numpy as np

        self._ngrams, self._buckets = ngrams, buckets
        p, q = self._shares(reference, "reference"), self._shares(raw, "raw")
        self._ratio: Row = np.log(p + _SMALL) - np.log(q + _SMALL)

    def _shares(self, texts: Iterable[str], which: str) -> Row:
        import numpy as np

        total = np.zeros(self._buckets)
        for text in texts:
            for place, count in counts(text, self._ngrams, self._buckets).items():
                total[place] += count
        if not total.sum():
            raise InputError(f"the {which} texts have no words to count; name others")
        shares: Row = total / total.sum()
        return shares

    def weight(self, text: str) -> tuple[float, int]:
        """A text's log importance weight, and the number of n-grams that it is a sum over."""
        own = counts(text, self._ngrams, self._buckets)
        return float(sum(count * self._ratio[place] for place, count in own.items())), own.total()
