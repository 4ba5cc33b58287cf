"""Choosing few of many items so that all lie near a chosen one: k-center and facility location over embeddings.

Both are greedy and deterministic: no seed, ties go to the item that comes first. K-center bounds the worst distance,
so it seeks out oddities; facility location serves the whole set, and an oddity counts as one item. Every step compares
all pairs of items, which is exact and takes memory for N x N similarities: fine for an exam's thousands.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.floating]
    Mask: TypeAlias = NDArray[np.bool_]


class SetFunction(Protocol):
    """A function of sets of N items, told of one chosen item after the other."""

    size: int

    def gain(self, index: int) -> float:
        """The gain of item `index` over what is taken so far."""

    def next(self, allowed: Mask) -> int:
        """The item of the `allowed` to take next; fewer are allowed at every call."""

    def take(self, index: int) -> None:
        """Add item `index`."""


def greedy(function: SetFunction, count: int, groups: Sequence[Hashable] | None = None) -> list[tuple[int, float]]:
    """At most `count` items in the order in which they are taken, each with its gain at that time.

    With `groups`, one of each group at most. A shorter choice is the beginning of a longer one.
    """
    import numpy as np

    numbers = {group: n for n, group in enumerate(dict.fromkeys(groups or ()))}
    group = np.array([numbers[g] for g in groups] if groups is not None else range(function.size))
    allowed = np.ones(function.size, dtype=bool)
    taken: list[tuple[int, float]] = []
    while len(taken) < count and allowed.any():
        index = function.next(allowed)
        taken.append((index, function.gain(index)))
        function.take(index)
        allowed &= group != group[index]
    return taken


class KCenter:
    """Cosine distance to the nearest taken row; `start` are rows that are taken already.

    Where nothing is taken, the first is the row nearest to the mean, and every gain is 2, the largest distance.
    """

    def __init__(self, vectors: Vectors, start: Vectors | None = None) -> None:
        import numpy as np

        self.size, self._vectors = len(vectors), vectors
        self._distance = np.full(len(vectors), 2.0, dtype=vectors.dtype)
        self._empty = start is None or not len(start)
        if start is not None and len(start):
            self._distance = 1.0 - (vectors @ start.T).max(axis=1)

    def gain(self, index: int) -> float:
        """See `SetFunction`; rounding may leave a repeated row a little below 0."""
        return max(0.0, float(self._distance[index]))

    def next(self, allowed: Mask) -> int:
        """The farthest."""
        import numpy as np

        wanted = self._vectors @ self._vectors.mean(axis=0) if self._empty else self._distance
        return int(np.argmax(np.where(allowed, wanted, -np.inf)))

    def take(self, index: int) -> None:
        """See `SetFunction`."""
        import numpy as np

        self._empty = False
        np.minimum(self._distance, 1.0 - self._vectors @ self._vectors[index], out=self._distance)


class FacilityLocation:
    """f(S) = Σ_i max_{j in S} (1 + cos(i, j)) / 2 over the rows i of `ground`, by default the items themselves.

    With `mean`, f is divided by their number. f is monotone and submodular with f(∅) = 0. Gains only fall, so a stale
    gain is an upper bound, and most need not be computed again (lazy greedy, Minoux 1978): the chosen set is the same.
    """

    def __init__(
        self, vectors: Vectors, start: Vectors | None = None, ground: Vectors | None = None, *, mean: bool = False
    ) -> None:
        import numpy as np

        rows = vectors if ground is None else ground
        self.size, self._scale = len(vectors), 1.0 / len(rows) if mean else 1.0
        self._similarity = (1.0 + rows @ vectors.T) / 2.0
        self._covered = np.zeros(len(rows))
        if start is not None and len(start):
            self._covered = ((1.0 + rows @ start.T) / 2.0).max(axis=1).astype(np.float64)
        most = self._scale * self._similarity.sum(axis=0, dtype=np.float64)
        self._bounds = [(-float(gain), j) for j, gain in enumerate(most)]
        heapq.heapify(self._bounds)

    def gain(self, index: int) -> float:
        """See `SetFunction`."""
        import numpy as np

        return self._scale * float(np.maximum(self._similarity[:, index] - self._covered, 0.0).sum())

    def next(self, allowed: Mask) -> int:
        """The item with the largest gain."""
        while True:
            _, index = heapq.heappop(self._bounds)
            if not allowed[index]:
                continue
            gain = self.gain(index)
            if not self._bounds or (-gain, index) <= self._bounds[0]:
                return index
            heapq.heappush(self._bounds, (-gain, index))

    def take(self, index: int) -> None:
        """See `SetFunction`."""
        import numpy as np

        np.maximum(self._covered, self._similarity[:, index], out=self._covered)


def k_center(vectors: Vectors, n: int) -> list[int]:
    """`n` rows of `vectors` (unit, [N, D]) by farthest-first traversal, starting with the row nearest to the mean.

    The largest cosine distance from any row to its nearest chosen one is at most twice the smallest possible in a
    metric (Gonzalez 1985); sqrt of the cosine distance is one, so the bound on the cosine distance itself is 4.
    """
    return [index for index, _ in greedy(KCenter(vectors), n)]


def facility_location(vectors: Vectors, n: int) -> list[int]:
    """`n` rows of `vectors` (unit, [N, D]) that greedily maximise `FacilityLocation`.

    The greedy set reaches at least 1 − 1/e of the best (Nemhauser, Wolsey and Fisher 1978).
    """
    return [index for index, _ in greedy(FacilityLocation(vectors), n)]


def nearest_cosines(vectors: Vectors, chosen: list[int]) -> Vectors:
    """For every row, its cosine to the nearest chosen row: how well a choice covers the set, whoever made it."""
    nearest: Vectors = (vectors @ vectors[chosen].T).max(axis=1)
    return nearest
