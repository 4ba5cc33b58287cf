"""The agreement of several answers: which say the same, and which of them stands for the rest.

An answer's value is what stands behind the last marker, in compatibility form, without case, punctuation at its ends
and repeated white space. Values are the same where they are equal, or where their embeddings fall into one cluster, as
AcquisitionSynthesis labels (arXiv 2605.13149).
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.synthesis.duplicates import normalise_text

CUT = 0.35
"""Cosine distance at which clusters of answers are cut."""
_ENDS = string.whitespace + ".,;:!?\"'`*"


@dataclass(frozen=True, slots=True)
class Consensus:
    """The answer that the largest group stands for: its place, the group's size, and how many groups there are."""

    place: int
    size: int
    groups: int


def value_of(text: str, marker: str) -> str:
    """The part of an answer that counts, normalised; empty where nothing stands there."""
    return normalise_text(text.rpartition(marker)[2] if marker else text).strip(_ENDS)


def consensus(values: Sequence[str], vectors: Any = None) -> Consensus | None:
    """The largest group of equal `values`, the earlier of equally large ones; empty values belong to none.

    With `vectors` [n, dimension] groups are clusters, and the medoid stands for its group; else the first of it does.
    None where no value is given.
    """
    groups = values if vectors is None else [str(number) for number in clusters(vectors)]
    kept = [at for at, value in enumerate(values) if value]
    if not kept:
        return None
    sizes = Counter(groups[at] for at in kept)
    largest, size = max(sizes.items(), key=lambda item: item[1])
    members = [at for at in kept if groups[at] == largest]
    return Consensus(members[0] if vectors is None else _medoid(members, vectors), size, len(sizes))


def clusters(vectors: Any) -> list[int]:
    """A cluster's number for every row of `vectors` [n, dimension]: average linkage, cut at a cosine distance of `CUT`.

    Rows of length 0 (answers without a word) are alike, and unlike all others.
    """
    import numpy as np
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    unit, empty = _unit(vectors)
    if len(unit) < 2:
        return [1] * len(unit)
    distance = 1.0 - unit @ unit.T
    distance[np.ix_(empty, empty)] = 0.0
    np.fill_diagonal(distance, 0.0)
    distance = np.clip((distance + distance.T) / 2, 0.0, None)
    found = fcluster(linkage(squareform(distance, checks=False), method="average"), t=CUT, criterion="distance")
    return [int(number) for number in found]


def _unit(vectors: Any) -> tuple[Any, Any]:
    """Rows of length 1, and which of them have no length."""
    import numpy as np

    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0), lengths[:, 0] == 0


def _medoid(members: Sequence[int], vectors: Any) -> int:
    """The member with the largest mean cosine to the others, the first of equal ones."""
    unit, _ = _unit(vectors)
    own = unit[list(members)]
    near = (own @ own.T).sum(axis=1)
    return members[int(near.argmax())]
