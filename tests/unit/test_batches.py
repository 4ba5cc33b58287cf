"""Batches: every item once, and never more tokens than were asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.training.batches import batches, collate
from harness.training.chat import Encoded


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


def test_a_packed_batch_counts_no_padding() -> None:
    assert list(batches([5, 5, 5, 9], 4, 20)) == [[0, 1, 2], [3]]
    assert list(batches([5, 5, 5, 5, 9], 5, 20, "packed")) == [[0, 1, 2, 3], [4]]


def test_losses_fall_on_what_predicts_a_completion_token() -> None:
    """Item 1 of three tokens, one of them prompt; item 2 without a prompt, whose first token nothing predicts."""
    items = [Encoded((3, 4, 5), 1), Encoded((6, 7), 0)]
    right = collate(items, [1.0, 2.0], 0, "right", "cpu")
    assert right.ids.tolist() == [[3, 4, 5], [6, 7, 0]]
    assert right.predicting.tolist() == [0, 1, 3] and right.labels.tolist() == [4, 5, 7]
    assert right.shares.tolist() == [0.5, 0.5, 2.0]
    left = collate(items, [1.0, 2.0], 0, "left", "cpu")
    assert left.ids.tolist() == [[3, 4, 5], [0, 6, 7]] and left.positions.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert left.predicting.tolist() == [0, 1, 4]
    packed = collate(items, [1.0, 2.0], 0, "packed", "cpu")
    assert packed.ids.tolist() == [[3, 4, 5, 6, 7]] and packed.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert packed.predicting.tolist() == [0, 1, 3] and packed.packed and not right.packed
