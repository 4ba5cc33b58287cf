"""A tree of capabilities over exam items, how weak a target is in each, and items that cover it and stress the weak.

After EvalTree (Zeng et al. 2025, arXiv 2503.08893): items are embedded and split by recursive k-means, with the number
of clusters of the best silhouette; a node's weakness comes from a Clopper-Pearson interval on the target's accuracy.
EvalTree embeds a sentence in which a language model names each item's capability, and names the nodes; here the items
themselves are embedded and nodes have no names, so that no judge is needed. What OptimSyn (App. E.4) does with the
tree is not stated beyond "cover a broad range of skills, especially those where the model is relatively weak"; the
rule of `allocate` is ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from evals.coverage import k_center

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

MAX_CLUSTERS = 10
SEED = 42
MIN_ITEMS = 5
ALPHA = 0.05
"""EvalTree's settings: 2 to 10 clusters, its random seed, and the smallest node and level of an interval."""


@dataclass(frozen=True, slots=True)
class Node:
    """A capability: its number, its parent's (-1: the root) and the rows that belong to it."""

    number: int
    parent: int
    depth: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Capability:
    """A node as it is stored: the target's answers in it, and how many of its items were chosen.

    `low` and `high` bound its accuracy (None below `MIN_ITEMS` items); `weakness` is the error rate that is certain.
    """

    node: int
    parent: int
    depth: int
    items: int
    correct: int
    low: float | None
    high: float | None
    weakness: float
    chosen: int


def grow(vectors: Vectors) -> list[Node]:
    """The tree over unit rows [N, D], parents before children. A node that no split improves is a leaf.

    A split is kept if its mean silhouette under cosine distance (Rousseeuw 1987) is above 0; at most 2 rows stay whole.
    """
    from threadpoolctl import threadpool_limits

    nodes = [Node(0, -1, 0, tuple(range(len(vectors))))]
    # Sums over threads round differently, and a row on a border would change sides.
    with threadpool_limits(1):
        for node in nodes:  # grows while it is walked
            for rows in _split(vectors, node.rows):
                nodes.append(Node(len(nodes), node.number, node.depth + 1, rows))
    return nodes


def _split(vectors: Vectors, rows: tuple[int, ...]) -> list[tuple[int, ...]]:
    """`rows` in the clusters of the best silhouette, the cluster of the first row first; empty where none is good."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score

    if len(rows) <= 2:
        return []
    own = vectors[list(rows)]
    best, labels = 0.0, None
    for k in range(2, min(MAX_CLUSTERS, len(rows) - 1) + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
            found = KMeans(n_clusters=k, random_state=SEED, n_init="auto").fit_predict(own)
        if not 2 <= len(set(found.tolist())) < len(rows):
            continue
        silhouette = float(silhouette_score(own, found, metric="cosine"))
        if silhouette > best:
            best, labels = silhouette, found.tolist()
    if labels is None:
        return []
    order = dict.fromkeys(labels)
    return [tuple(row for row, label in zip(rows, labels, strict=True) if label == wanted) for wanted in order]


def node_intervals(nodes: Sequence[Node], correct: Sequence[bool]) -> list[tuple[float | None, float | None, float]]:
    """For every node the exact interval of its accuracy (Clopper and Pearson 1934, level 1 − `ALPHA`), and weakness.

    Weakness is 1 − the upper bound: the error rate that is certain. A node of fewer than `MIN_ITEMS` items has no
    interval and its parent's weakness.
    """
    from scipy.stats import binomtest

    found: list[tuple[float | None, float | None, float]] = []
    for node in nodes:
        if len(node.rows) < MIN_ITEMS:
            found.append((None, None, found[node.parent][2] if node.parent >= 0 else 0.0))
            continue
        right = sum(correct[row] for row in node.rows)
        interval = binomtest(right, len(node.rows)).proportion_ci(1.0 - ALPHA, method="exact")
        found.append((float(interval.low), float(interval.high), 1.0 - float(interval.high)))
    return found


def allocate(nodes: Sequence[Node], weakness: Sequence[float], n: int) -> list[int]:
    """The number of `n` items that every node gives, from the root down; at most as many as it has.

    A node's children first get one each, the weakest first (then the larger, then the earlier), as far as its share
    goes. The rest is divided in proportion to a child's items times its weakness, by largest remainders; by items alone
    where no child is certainly weak.
    """
    shares = [0] * len(nodes)
    shares[0] = n
    children: dict[int, list[Node]] = {}
    for node in nodes[1:]:
        children.setdefault(node.parent, []).append(node)
    for node in nodes:
        own = children.get(node.number, [])
        parts = _divide(shares[node.number], [len(c.rows) for c in own], [weakness[c.number] for c in own])
        for child, share in zip(own, parts, strict=True):
            shares[child.number] = share
    return shares


def _divide(share: int, sizes: Sequence[int], weakness: Sequence[float]) -> list[int]:
    order = sorted(range(len(sizes)), key=lambda i: (-weakness[i], -sizes[i], i))
    given = [0] * len(sizes)
    for i in order[:share]:
        given[i] = 1
    left = share - sum(given) if sizes else 0
    while left:
        open_ = [i for i in order if given[i] < sizes[i]]
        mass = [sizes[i] * weakness[i] for i in open_]
        if not sum(mass):
            mass = [float(sizes[i]) for i in open_]
        exact = [left * m / sum(mass) for m in mass]
        parts = [int(x) for x in exact]
        # The largest remainders get what rounding left over; sorted() keeps the order of weakness among equals.
        for j in sorted(range(len(open_)), key=lambda j: parts[j] - exact[j])[: left - sum(parts)]:
            parts[j] += 1
        for i, part in zip(open_, parts, strict=True):
            given[i] += min(part, sizes[i] - given[i])
        left = share - sum(given)
    return given


def choose(vectors: Vectors, correct: Sequence[bool], n: int) -> tuple[list[int], list[Capability]]:
    """`n` rows by the tree, and the tree. Within a leaf, rows are taken farthest first, beginning at its centre."""
    nodes = grow(vectors)
    assessed = node_intervals(nodes, correct)
    shares = allocate(nodes, [weakness for _, _, weakness in assessed], n)
    inner = {node.parent for node in nodes}
    chosen: list[int] = []
    for node in nodes:
        if node.number not in inner and shares[node.number]:
            rows = list(node.rows)
            chosen += [rows[i] for i in k_center(vectors[rows], shares[node.number])]
    table = [
        Capability(
            node=node.number,
            parent=node.parent,
            depth=node.depth,
            items=len(node.rows),
            correct=sum(correct[row] for row in node.rows),
            low=low,
            high=high,
            weakness=weakness,
            chosen=shares[node.number],
        )
        for node, (low, high, weakness) in zip(nodes, assessed, strict=True)
    ]
    return chosen, table
