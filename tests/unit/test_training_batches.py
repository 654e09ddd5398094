from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compress.training.batches import batches_by_length, shuffled_batches

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300).map(lambda xs: np.array(xs, dtype=np.int64))


@given(lengths, st.integers(1, 40), st.integers(0, 5), st.integers(0, 5), st.integers(1, 5))
def test_an_epoch_holds_every_example_once(
    sizes: np.ndarray, size: int, seed: int, epoch: int, window: int
) -> None:
    batches = shuffled_batches(sizes, size, seed=seed, epoch=epoch, window=window)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    assert len(batches) == math.ceil(len(sizes) / size)
    assert sum(len(batch) < size for batch in batches) <= 1


@given(lengths, st.integers(1, 40), st.none() | st.integers(0, 300))
def test_prediction_sees_every_example_once_longest_first(
    sizes: np.ndarray, size: int, tokens: int | None
) -> None:
    batches = batches_by_length(sizes, size, tokens)
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or tokens is None or len(batch) * sizes[batch].max() <= tokens
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(sizes)))
    assert (np.diff(sizes[order]) <= 0).all()


def test_equal_seeds_give_equal_batches_and_epochs_differ() -> None:
    sizes = np.random.default_rng(0).integers(1, 60, 500)
    first, again, other, later = (
        [batch.tolist() for batch in shuffled_batches(sizes, 16, seed=seed, epoch=epoch)]
        for seed, epoch in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert first == again
    assert first != other
    assert first != later


def test_buckets_pad_far_less_than_plain_shuffling() -> None:
    sizes = np.random.default_rng(0).integers(4, 128, 4096)

    def padded(batches: list[np.ndarray]) -> int:
        return sum(len(batch) * int(sizes[batch].max()) for batch in batches)

    plain = shuffled_batches(sizes, 32, seed=0, epoch=0, window=1)
    bucketed = shuffled_batches(sizes, 32, seed=0, epoch=0)
    assert padded(plain) > 1.7 * sizes.sum()
    assert padded(bucketed) < 1.1 * sizes.sum()
