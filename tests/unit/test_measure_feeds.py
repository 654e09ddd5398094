from __future__ import annotations

import numpy as np
import pytest

from compress.encoding.tokens import TokenInputs
from compress.measuring.timing.feeds import fixed_batch, sample_indices, scenarios, sequential_batches

INPUTS = TokenInputs(
    [np.array([5, 6]), np.array([7]), np.array([8, 9, 10])], ("input_ids", "attention_mask"), pad_id=0
)


def test_a_sample_is_drawn_once_a_seed_without_repeats() -> None:
    drawn = sample_indices(50, 20, seed=3)
    assert len(set(drawn.tolist())) == 20
    assert drawn.tolist() == sample_indices(50, 20, seed=3).tolist()
    assert drawn.tolist() != sample_indices(50, 20, seed=4).tolist()


def test_a_small_split_is_taken_whole() -> None:
    assert sorted(sample_indices(4, 20, seed=0).tolist()) == [0, 1, 2, 3]


def test_scenarios_are_every_batch_size_at_every_length() -> None:
    made = scenarios(np.arange(10), [1, 4], [32])
    assert [(one.batch_size, one.lengths) for one in made] == [
        (1, "real"),
        (4, "real"),
        (1, "fixed:32"),
        (4, "fixed:32"),
    ]
    assert made[1].indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_too_few_examples_are_repeated_to_fill_one_batch() -> None:
    assert scenarios(np.arange(3), [8], [])[0].indices.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]


def test_real_batches_are_padded_to_their_longest() -> None:
    (scenario,) = scenarios(np.array([1, 2]), [2], [])
    (batch,) = scenario.batches(INPUTS)
    assert batch["input_ids"].tolist() == [[7, 0, 0], [8, 9, 10]]
    assert scenario.mean_length(INPUTS) == 2


def test_fixed_batches_repeat_or_cut_and_hold_no_padding() -> None:
    batch = fixed_batch(INPUTS, [0, 2], 2)
    assert batch["input_ids"].tolist() == [[5, 6], [8, 9]]
    batch = fixed_batch(INPUTS, [0, 2], 5)
    assert batch["input_ids"].tolist() == [[5, 6, 5, 6, 5], [8, 9, 10, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1] * 5] * 2


@pytest.mark.parametrize(("size", "rows"), [(1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_scoring_takes_every_example_in_order(size: int, rows: list[int]) -> None:
    batches = list(sequential_batches(INPUTS, size))
    assert [len(batch["input_ids"]) for batch in batches] == rows
    assert [row[0] for batch in batches for row in batch["input_ids"].tolist()] == [5, 7, 8]
