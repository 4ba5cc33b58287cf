"""Statistics against values worked out by hand and against scipy."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.statistics import holm, mean_sd, paired_difference, paired_items, standard_error


def test_paired_difference_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t(2) = 4.302653, so 2 ± 4.302653 / sqrt(3)."""
    got = paired_difference({1: 2.0, 2: 4.0, 3: 6.0}, {1: 1.0, 2: 2.0, 3: 3.0})
    assert (got.mean, got.sd, got.n) == (2.0, 1.0, 3)
    assert got.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert got.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert got.p == pytest.approx(0.0741799, abs=1e-6)
    assert not got.excludes_zero


def test_paired_difference_agrees_with_scipy() -> None:
    rng = random.Random(5)
    a = {i: rng.random() for i in range(7)}
    b = {i: rng.random() for i in range(7)}
    got = paired_difference(a, b)
    reference = stats.ttest_rel([a[i] for i in range(7)], [b[i] for i in range(7)])
    interval = reference.confidence_interval(0.95)
    assert got.p == pytest.approx(reference.pvalue)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high))


def test_paired_difference_uses_shared_units_only() -> None:
    assert paired_difference({0: 1.0, 1: 2.0, 9: 50.0}, {0: 0.0, 1: 1.0, 8: -50.0}).n == 2
    with pytest.raises(ValueError, match="no unit in common"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_one_pair_has_no_interval() -> None:
    got = paired_difference({3: 0.7}, {3: 0.5})
    assert got.mean == pytest.approx(0.2)
    assert (got.low, got.high, got.sd, got.p) == (None, None, None, None)
    assert not got.excludes_zero


def test_equal_differences_have_no_width() -> None:
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    shifted = paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert shifted.p == 0.0 and shifted.excludes_zero


def test_interval_covers_the_truth_about_95_percent_of_the_time() -> None:
    rng = random.Random(11)
    hits = 0
    for _ in range(600):
        a = {i: rng.gauss(0.3, 1.0) for i in range(5)}
        got = paired_difference(a, dict.fromkeys(a, 0.0))
        assert got.low is not None and got.high is not None
        hits += got.low <= 0.3 <= got.high
    assert 0.92 <= hits / 600 <= 0.98


def test_standard_error_of_proportion() -> None:
    values = [1.0] * 30 + [0.0] * 70
    assert standard_error(values) == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert standard_error([1.0]) is None


def test_clustered_standard_error_by_hand() -> None:
    """Two clusters of two equal values: residual sums +1 and -1, so sqrt(2 / 1 · 2) / 4 = 0.5."""
    assert standard_error([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    assert standard_error([1.0, 0.0], ["a", "a"]) is None
    with pytest.raises(ValueError, match="cluster keys"):
        standard_error([1.0, 0.0], ["a"])


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40))
def test_clusters_of_one_change_nothing(values: list[float]) -> None:
    assert standard_error(values, list(range(len(values)))) == pytest.approx(standard_error(values))


def test_paired_items_cancels_hard_items() -> None:
    a = {"1": 1.0, "2": 0.0, "3": 1.0, "4": 1.0}
    b = {"1": 1.0, "2": 0.0, "3": 0.0, "4": 1.0}
    mean, error = paired_items(a, b)
    assert mean == 0.25
    assert error == pytest.approx(stats.sem([0.0, 0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="same items"):
        paired_items(a, {"1": 1.0})


def test_holm_by_hand() -> None:
    """Of .01, .04, .03: 3 · .01 = .03, 2 · .03 = .06, and .04 may not fall below it."""
    assert holm({"x": 0.01, "y": 0.04, "z": 0.03}) == pytest.approx({"x": 0.03, "z": 0.06, "y": 0.06})
    assert holm({"x": 0.9, "y": 0.8}) == {"y": 1.0, "x": 1.0}
    assert holm({}) == {}


def test_mean_sd() -> None:
    assert mean_sd([2.0, 4.0]) == (3.0, pytest.approx(math.sqrt(2)))
    assert mean_sd([2.0]) == (2.0, None)
    with pytest.raises(ValueError, match="no values"):
        mean_sd([])
