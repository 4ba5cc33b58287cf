"""Batches of influence: every item once, and never more tokens than were asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from methods.signals.influence.engine import batches


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 20), st.integers(1, 1000))
def test_batches_hold_every_item_once_within_both_limits(lengths: list[int], size: int, tokens: int) -> None:
    found = list(batches(lengths, size, tokens))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


def test_a_batch_is_as_large_as_the_limits_allow() -> None:
    assert list(batches([5, 5, 5, 5], 4, 20)) == [[0, 1, 2, 3]]
    assert list(batches([5, 5, 5, 9], 4, 20)) == [[0, 1, 2], [3]]
    assert list(batches([5, 5, 5, 5], 3, 100)) == [[0, 1, 2], [3]]
