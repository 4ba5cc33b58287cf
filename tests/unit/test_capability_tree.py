"""The capability tree: how it splits, what it calls weak, and whom it gives items."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from evals.capability_tree import ALPHA, Node, allocate, choose, grow, node_intervals


def blobs(sizes: list[int], noise: float = 0.1, width: int = 24, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(width, width)))[0][: len(sizes)]
    rows = np.repeat(centres, sizes, axis=0) + noise * rng.normal(size=(sum(sizes), width)) / np.sqrt(width)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def level(nodes: list[Node], depth: int) -> list[Node]:
    return [node for node in nodes if node.depth == depth]


def test_the_first_split_finds_the_groups() -> None:
    sizes = [12, 8, 20, 6]
    nodes = grow(blobs(sizes))
    found = [node.rows for node in level(nodes, 1)]
    starts = np.cumsum([0, *sizes])
    assert found == [tuple(range(a, b)) for a, b in pairwise(starts)]


def test_it_is_a_tree_over_all_rows_and_the_same_twice() -> None:
    vectors = blobs([9, 9, 9], noise=0.6)
    nodes = grow(vectors)
    assert [node.number for node in nodes] == list(range(len(nodes)))
    for node in nodes:
        children = [n for n in nodes if n.parent == node.number]
        assert not children or sorted(row for n in children for row in n.rows) == list(node.rows)
        assert all(n.number > node.number and n.depth == node.depth + 1 for n in children)
        assert len(children) <= 10 and len(children) != 1
        assert len(node.rows) > 2 or not children
    assert grow(vectors) == nodes


def test_equal_rows_and_pairs_are_not_split() -> None:
    assert len(grow(np.ones((8, 4), dtype=np.float32) / 2)) == 1
    assert len(grow(blobs([1, 1]))) == 1


def _leaves(sizes: list[int]) -> list[Node]:
    starts = np.cumsum([0, *sizes]).tolist()
    rows = [tuple(range(a, b)) for a, b in pairwise(starts)]
    return [Node(0, -1, 0, tuple(range(starts[-1]))), *(Node(i + 1, 0, 1, r) for i, r in enumerate(rows))]


def test_weakness_is_the_certain_error_rate() -> None:
    nodes = _leaves([20, 10, 4])
    correct = [True] * 20 + [False] * 10 + [False] * 4
    root, strong, weak, small = node_intervals(nodes, correct)
    # All right of 20: the upper bound is 1, nothing is certain. None right of 10: 1 - high = (alpha/2)^(1/10).
    assert strong == (pytest.approx((ALPHA / 2) ** (1 / 20)), 1.0, 0.0)
    assert weak[:2] == (0.0, pytest.approx(1 - (ALPHA / 2) ** (1 / 10)))
    assert weak[2] == pytest.approx((ALPHA / 2) ** (1 / 10))
    assert small == (None, None, root[2]) and 0 < root[2] < weak[2]


def test_shares_cover_first_and_stress_the_weak() -> None:
    nodes = _leaves([50, 50, 50, 3])
    weakness = [0.3, 0.0, 0.1, 0.4, 0.3]
    assert allocate(nodes, weakness, 1) == [1, 0, 0, 1, 0]
    assert allocate(nodes, weakness, 3) == [3, 0, 1, 1, 1]
    assert allocate(nodes, weakness, 4) == [4, 1, 1, 1, 1]
    # 50 beyond one each, by 0 : 5 : 20 : 0.9, that is 0, 9.65, 38.61 and 1.74; the largest remainders are rounded up.
    assert allocate(nodes, weakness, 54) == [54, 1, 11, 39, 3]
    # The last one has no more than 3 items, so what is its part goes to the others.
    assert allocate(nodes, weakness, 74) == [74, 1, 20, 50, 3]
    everything = allocate(nodes, weakness, 153)
    assert everything == [153, 50, 50, 50, 3]


def test_without_weakness_shares_follow_size() -> None:
    assert allocate(_leaves([30, 20, 10]), [0.0] * 4, 6) == [6, 3, 2, 1]


@pytest.mark.parametrize("n", [1, 7, 20, 61, 100])
def test_shares_add_up_at_every_node(n: int) -> None:
    vectors = blobs([40, 30, 20, 10], noise=0.8, seed=3)
    correct = (np.random.default_rng(1).random(100) < np.repeat([0.1, 0.4, 0.8, 1.0], [40, 30, 20, 10])).tolist()
    chosen, table = choose(vectors, correct, n)
    assert len(chosen) == len(set(chosen)) == n
    for row in table:
        below = [t.chosen for t in table if t.parent == row.node]
        assert not below or sum(below) == row.chosen
        assert row.chosen <= row.items
    assert table[0].correct == sum(correct)


def test_a_weak_group_gets_more_than_its_part() -> None:
    vectors = blobs([50, 50])
    chosen, table = choose(vectors, [True] * 50 + [False] * 50, 20)
    strong, weak = (row for row in table if row.depth == 1)
    assert (strong.chosen, weak.chosen) == (1, 19)
    assert sum(row >= 50 for row in chosen) == 19
