"""Choosing few of many items so that all lie near a chosen one: k-center and facility location over embeddings.

Both are greedy and deterministic: no seed, ties go to the item that comes first. K-center bounds the worst distance,
so it seeks out oddities; facility location serves the whole set, and an oddity counts as one item. Every step compares
all pairs of items, which is exact and takes memory for N x N similarities: fine for an exam's thousands.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]


def k_center(vectors: Vectors, n: int) -> list[int]:
    """`n` rows of `vectors` (unit, [N, D]) by farthest-first traversal, starting with the row nearest to the mean.

    The largest cosine distance from any row to its nearest chosen one is at most twice the smallest possible in a
    metric (Gonzalez 1985); sqrt of the cosine distance is one, so the bound on the cosine distance itself is 4.
    """
    import numpy as np

    chosen = [int(np.argmax(vectors @ vectors.mean(axis=0)))]
    distance = 1.0 - vectors @ vectors[chosen[0]]
    while len(chosen) < n:
        distance[chosen[-1]] = -np.inf
        chosen.append(int(np.argmax(distance)))
        np.minimum(distance, 1.0 - vectors @ vectors[chosen[-1]], out=distance)
        distance[chosen] = -np.inf
    return chosen


def facility_location(vectors: Vectors, n: int) -> list[int]:
    """`n` rows of `vectors` (unit, [N, D]) that greedily maximise f(S) = Σ_i max_{j in S} (1 + cos(i, j)) / 2.

    f is monotone and submodular with f(∅) = 0, so the greedy set reaches at least 1 − 1/e of the best (Nemhauser,
    Wolsey and Fisher 1978). Gains only fall, so a stale gain is an upper bound, and most need not be computed again
    (lazy greedy, Minoux 1978): the chosen set is the same.
    """
    import numpy as np

    similarity = (1.0 + vectors @ vectors.T) / 2.0
    covered = np.zeros(len(vectors))
    bounds = [(-float(gain), j) for j, gain in enumerate(similarity.sum(axis=0, dtype=np.float64))]
    heapq.heapify(bounds)
    chosen: list[int] = []
    while len(chosen) < n:
        _, j = heapq.heappop(bounds)
        gain = float(np.maximum(similarity[:, j] - covered, 0.0).sum())
        if bounds and (-gain, j) > bounds[0]:
            heapq.heappush(bounds, (-gain, j))
            continue
        chosen.append(j)
        np.maximum(covered, similarity[:, j], out=covered)
    return chosen


def nearest_cosines(vectors: Vectors, chosen: list[int]) -> Vectors:
    """For every row, its cosine to the nearest chosen row: how well a choice covers the set, whoever made it."""
    nearest: Vectors = (vectors @ vectors[chosen].T).max(axis=1)
    return nearest
