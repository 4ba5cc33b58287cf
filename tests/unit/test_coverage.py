"""Greedy coverage against the definitions, brute force and the guarantees."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from evals.coverage import facility_location, k_center, nearest_cosines


def unit(rows: Any) -> Any:
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cloud(seed: int, n: int, width: int = 6) -> Any:
    return unit(np.random.default_rng(seed).normal(size=(n, width)))


def value(vectors: Any, chosen: list[int]) -> float:
    """f of facility location, as its docstring has it."""
    return float(((1 + vectors @ vectors[chosen].T) / 2).max(axis=1).sum())


def radius(vectors: Any, chosen: list[int]) -> float:
    """The largest Euclidean distance to the nearest chosen row."""
    return float(np.sqrt(2 - 2 * nearest_cosines(vectors, chosen).clip(max=1)).max())


def _plain_greedy(vectors: Any, n: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(n):
        gains = [-np.inf if j in chosen else value(vectors, [*chosen, j]) for j in range(len(vectors))]
        chosen.append(int(np.argmax(gains)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_lazy_greedy_is_greedy_and_keeps_its_guarantee(seed: int) -> None:
    vectors = cloud(seed, 14)
    chosen = facility_location(vectors, 4)
    assert value(vectors, chosen) == pytest.approx(value(vectors, _plain_greedy(vectors, 4)), rel=1e-6)
    best = max(value(vectors, list(c)) for c in combinations(range(14), 4))
    assert value(vectors, chosen) >= (1 - 1 / np.e) * best


@pytest.mark.parametrize("seed", range(5))
def test_k_center_is_within_twice_the_best_radius_and_never_gets_worse(seed: int) -> None:
    vectors = cloud(seed, 14)
    radii = [radius(vectors, k_center(vectors, n)) for n in range(1, 15)]
    assert radii == sorted(radii, reverse=True) and radii[-1] == pytest.approx(0, abs=1e-3)
    best = min(radius(vectors, list(c)) for c in combinations(range(14), 4))
    assert radii[3] <= 2 * best + 1e-6


@pytest.mark.parametrize("choose", [k_center, facility_location])
def test_every_cluster_is_reached_without_a_repeat(choose: Any) -> None:
    """Five tight groups of unequal size: five choices take one of each; a random five would miss one mostly."""
    centres = np.eye(5, dtype=np.float32)
    sizes = [40, 20, 5, 2, 1]
    noise = np.random.default_rng(0).normal(size=(sum(sizes), 5)) * 0.02
    vectors = unit(np.repeat(centres, sizes, axis=0) + noise)
    group = np.repeat(range(5), sizes)
    assert sorted(group[choose(vectors, 5)]) == [0, 1, 2, 3, 4]
    everything = choose(vectors, len(vectors))
    assert sorted(everything) == list(range(len(vectors)))


@pytest.mark.parametrize("choose", [k_center, facility_location])
def test_equal_rows_are_chosen_in_order(choose: Any) -> None:
    same = unit(np.ones((6, 3)))
    assert choose(same, 3) == choose(same, 3)
    assert len(set(choose(same, 6))) == 6
    assert choose(unit([[1, 0], [1, 0], [0, 1]]), 2) == [0, 2]
