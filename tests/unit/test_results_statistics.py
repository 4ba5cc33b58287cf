"""Statistics against values worked out by hand and against scipy."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.errors import InputError
from harness.lab.report import auc
from harness.record import read_record
from harness.statistics import standard_error
from harness.types import Score
from results.assessment import Ranking, Subset, assess_arms, render_assessment
from results.calibration import CalibrationRow, calibration_table
from results.runs import read_items
from results.statistics import (
    holm,
    mean_sd,
    paired_difference,
    paired_items,
    skewness,
    skewness_error,
)
from support.made_runs import make_run


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


def test_skewness_agrees_with_scipy_and_by_hand() -> None:
    rng = random.Random(1)
    for n in (3, 5, 12):
        values = [rng.expovariate(1.0) for _ in range(n)]
        assert skewness(values) == pytest.approx(float(stats.skew(values, bias=False)))
    assert skewness([1.0, 2.0]) is None and skewness([1.0, 1.0, 1.0]) is None
    # sqrt(6 * 10 * 9 / (8 * 11 * 13)).
    assert skewness_error(10) == pytest.approx(0.687043, abs=1e-6)


def test_skew_is_flagged_from_five_pairs_on() -> None:
    for n in (2, 3, 4, 5, 10, 20):
        far = paired_difference({i: 100.0 * (i == 0) + 0.01 * i for i in range(n)}, dict.fromkeys(range(n), 0.0))
        assert far.skewed == (n >= 5)
        even = paired_difference({i: float(i) for i in range(n)}, dict.fromkeys(range(n), 0.0))
        assert not even.skewed


def test_one_sided_noise_is_where_intervals_miss_and_warn() -> None:
    """What the screens say of Student's interval, measured (more draws: tests/benchmarks/interval_skew.py)."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from interval_skew import rates

    misses, warned = rates("log-normal, one arm", 10, 400)
    assert 0.1 < misses < 0.22 and 0.4 < warned < 0.6
    for noise in ("normal", "normal, unequal", "heavy tails"):
        misses, warned = rates(noise, 10, 300)
        assert misses < 0.09 and warned < 0.25


BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_finite_number_is_refused_by_every_statistic(bad: float) -> None:
    refusing: list[Callable[[], object]] = [
        lambda: mean_sd([1.0, bad]),
        lambda: paired_difference({0: bad, 1: 1.0}, {0: 1.0, 1: 1.0}),
        lambda: paired_difference({0: 1.0, 1: 1.0}, {0: 1.0, 1: bad}),
        lambda: paired_difference({0: 1.0, 9: bad}, {0: 1.0}),
        lambda: standard_error([1.0, bad, 0.0]),
        lambda: paired_items({"a": bad}, {"a": 1.0}),
        lambda: holm({"a": 0.1, "b": bad}),
        lambda: auc([1.0], [bad]),
        lambda: auc([bad], [1.0]),
    ]
    for statistic in refusing:
        with pytest.raises(ValueError, match=r"finite|probability"):
            statistic()


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_finite_number_enters_no_table(bad: float, tmp_path: Path) -> None:
    def row(arm: str, world: int, value: float, seconds: float = 1.0) -> CalibrationRow:
        return CalibrationRow(arm, world, {"lab_asked": value}, 0.5, seconds)

    good = [row(arm, world, 0.5) for arm in ("static", "a") for world in (0, 1)]
    for rows in ([*good, row("b", 0, bad)], [*good, row("b", 0, 0.5, bad)]):
        with pytest.raises(InputError, match=r"arm 'b' in world 0 has (nan|inf|-inf) as"):
            calibration_table(rows)
    ranking = Ranking("a", 3, {"all": 0.5}, 0, 1.0)
    subset = Subset(3, "a", 1.0, "x", 0.5, 0.5, 0.1, {"a": 0.0})
    for rankings, subsets in (
        ([Ranking("a", 3, {"all": bad}, 0, 1.0)], []),
        ([ranking], [Subset(3, "a", 1.0, "x", 0.5, bad, 0.1, {"a": 0.0})]),
        ([ranking], [subset, Subset(3, "a", 2.0, "y", 0.5, 0.5, 0.1, {"a": bad})]),
    ):
        with pytest.raises(InputError, match="in world 3 has"):
            assess_arms(rankings, subsets)
    with pytest.raises(InputError, match="no finite number"):
        Score("i", "s", bad)
    with pytest.raises(InputError, match="no finite number"):
        Score("i", "s", 1.0, parts={"withheld": bad})


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["columns", "cost", "budget"])
def test_records_and_items_hold_finite_numbers(text: str, place: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", {"asked": [1, 0]}, {"asked": [0, 1]})
    path = folder / "record.json"
    old = {"columns": '"score": 0.5', "cost": '"seconds": 4.2', "budget": '"budget": 120.0'}[place]
    new = f"{old.partition(': ')[0]}: {text}"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=r"record\.json: .*no finite number") as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


def test_items_that_are_no_number_are_refused(tmp_path: Path) -> None:
    from harness.shards import write_table

    folder = make_run(tmp_path, "a", {"asked": [1, 0]}, {"asked": [0, 1]})
    row = {"model": "tuned", "task": "asked"}
    rows = [{**row, "item_id": f"i{i}", "correct": x} for i, x in enumerate((1.0, math.nan))]
    write_table(folder / "items.parquet", rows)
    with pytest.raises(InputError, match="has nan for item i1 of asked"):
        read_items(folder)


def test_tables_say_where_their_interval_may_not_hold() -> None:
    """A single world that is far off marks the interval, in both tables; without one there is the note alone."""
    values = {0: 0.9, 1: 0.41, 2: 0.4, 3: 0.4, 4: 0.41, 5: 0.4, 6: 0.42}
    rows = [CalibrationRow("static", w, {"lab_asked": 0.4}, None, 1.0) for w in values]
    rows += [CalibrationRow("a", w, {"lab_asked": v}, None, 1.0) for w, v in values.items()]
    text = calibration_table(rows).markdown()
    assert "] skewed |" in text and "15 to 18 % of the time instead of 5 %" in text
    even = [CalibrationRow("a", w, {"lab_asked": 0.4 + w / 100}, None, 1.0) for w in values]
    assert "] skewed |" not in calibration_table([*rows[:7], *even]).markdown()
    shown = render_assessment(assess_arms([Ranking("a", w, {"all": v}, 0, 1.0) for w, v in values.items()], []))
    assert " skewed |" in shown and "one-sided skew" in shown
