"""Reward shaping: scale over valid scored samples, invalid ones apart, None stays None."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.drivers.shaping import RewardConfig, shape

VALUES = [0.1, 0.3, None, 0.2, 0.7, None]
VALID = [True, True, True, True, True, False]
GROUP = [0, 0, 0, 1, 1, 1]


def test_a_batch_is_scaled_over_its_valid_scored_samples() -> None:
    got = shape(VALUES, VALID, GROUP, RewardConfig())
    assert got == [pytest.approx(0.0), pytest.approx(1 / 3), None, pytest.approx(1 / 6), pytest.approx(1.0), -0.1]


def test_a_group_is_scaled_on_its_own() -> None:
    got = shape(VALUES, VALID, GROUP, RewardConfig(scope="group"))
    assert got == [0.0, pytest.approx(1.0), None, 0.0, pytest.approx(1.0), -0.1]


def test_without_a_scope_scores_pass_unchanged() -> None:
    assert shape(VALUES, VALID, GROUP, RewardConfig(scope="none")) == [0.1, 0.3, None, 0.2, 0.7, -0.1]


def test_an_invalid_samples_score_never_sets_the_range() -> None:
    """The published code scores placeholders of failed samples and lets them stretch the scale."""
    assert shape([0.2, 0.4, -9.0], [True, True, False], [0, 0, 0], RewardConfig()) == [0.0, 1.0, -0.1]


def test_what_an_invalid_sample_gets() -> None:
    assert shape([None, 1.0], [False, True], [0, 0], RewardConfig(invalid="zero")) == [0.0, 0.0]
    assert shape([None, 1.0], [False, True], [0, 0], RewardConfig(penalty=0.5)) == [-0.5, 0.0]


@pytest.mark.parametrize("scope", ["batch", "group"])
def test_ties_give_no_advantage(scope: Any) -> None:
    assert shape([0.4] * 4, [True] * 4, [0, 0, 1, 1], RewardConfig(scope=scope)) == [0.0] * 4


def test_nothing_measured_is_nothing_rewarded() -> None:
    assert shape([None, None], [True, True], [0, 0], RewardConfig()) == [None, None]
    assert shape([None, None], [False, False], [0, 0], RewardConfig()) == [-0.1, -0.1]
    assert shape([], [], [], RewardConfig()) == []


_scores = st.lists(st.tuples(st.none() | st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=12)


@given(_scores, st.sampled_from(["batch", "group", "none"]), st.sampled_from(["penalty", "zero"]))
def test_order_range_and_none_hold_for_any_scores(rows: Any, scope: Any, invalid: Any) -> None:
    values, valid = [v for v, _ in rows], [ok for _, ok in rows]
    group = [i // 3 for i in range(len(rows))]
    rewards = shape(values, valid, group, RewardConfig(scope=scope, invalid=invalid))
    for i, (value, ok, reward) in enumerate(zip(values, valid, rewards, strict=True)):
        assert (reward is None) == (ok and value is None)
        if not ok:
            assert reward == (-0.1 if invalid == "penalty" else 0.0)
        elif scope != "none" and reward is not None:
            assert 0.0 <= reward <= 1.0
        for j in range(i):
            same = scope != "group" or group[i] == group[j]
            if ok and valid[j] and same and value is not None and values[j] is not None and value > values[j]:
                assert reward is not None and rewards[j] is not None and reward >= rewards[j]
