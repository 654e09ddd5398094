"""Simulated rounding: by hand, and digit for digit as the integer arithmetic of `quantize` does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compress.passes.quantize.int8.affine import (
    INT8_LIMIT,
    REDUCED_LIMIT,
    activation_scale,
    quantize_columns,
    quantize_dequantize,
    quantize_kernel,
    quantize_table,
)
from compress.passes.quantize.weight_only.blocks import quantize_blocks
from compress.training.rounding.integers import (
    fake_quantize_activations,
    fake_quantize_blocks,
    fake_quantize_table,
    fake_quantize_weights,
    scale_and_zero_point,
    straight_through,
)

Floats = NDArray[np.float32]


def drawn(seed: int, *shape: int, size: float = 1.0) -> Floats:
    return np.random.default_rng(seed).normal(0, size, shape).astype(np.float32)


def test_weights_by_hand() -> None:
    weight = torch.tensor([[1.27, -0.634, 0.006], [0.0, 0.0, 0.0]])
    (rounded,) = fake_quantize_weights([weight], per_channel=True, limit=127)
    assert rounded[0].tolist() == pytest.approx([1.27, -0.63, 0.01])
    assert rounded[1].tolist() == [0, 0, 0]


def test_weights_that_are_one_in_the_file_have_one_scale_without_channels() -> None:
    small, large = torch.tensor([[0.014]]), torch.tensor([[-1.27]])
    rounded = fake_quantize_weights([small, large], per_channel=False, limit=127)
    assert [float(one) for one in rounded] == pytest.approx([0.01, -1.27])
    apart = fake_quantize_weights([small, large], per_channel=True, limit=127)
    assert [float(one) for one in apart] == pytest.approx([0.014, -1.27])


def test_activations_by_hand() -> None:
    values = torch.tensor([-0.5, 0.004, 0.006, 2.05, 9.0], requires_grad=True)
    rounded = fake_quantize_activations(values, torch.tensor(-0.5), torch.tensor(2.05))
    assert rounded.tolist() == pytest.approx([-0.5, 0.0, 0.01, 2.05, 2.05])
    torch.autograd.backward(rounded.sum())
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 1, 1, 0]  # what is cut off does not learn


def test_a_range_of_nothing_keeps_zeros() -> None:
    zeros = torch.zeros(3)
    assert fake_quantize_activations(zeros, zeros.min(), zeros.max()).tolist() == [0, 0, 0]


def test_gradients_pass_and_values_are_the_rounded_ones_exactly() -> None:
    values = torch.tensor([0.1, 1e8], requires_grad=True)
    rounded = torch.tensor([0.3, 1.0])
    result = straight_through(values, rounded)
    assert torch.equal(result, rounded)
    torch.autograd.backward((result * torch.tensor([2.0, 3.0])).sum())
    assert values.grad is not None
    assert values.grad.tolist() == [2, 3]


SEEDS = st.integers(0, 10_000)
SIZES = st.sampled_from([1e-30, 1e-3, 1.0, 1e4])


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, st.booleans(), st.sampled_from([INT8_LIMIT, REDUCED_LIMIT]))
def test_weights_are_those_that_the_file_holds(seed: int, size: float, per_channel: bool, limit: int) -> None:
    weight = drawn(seed, 5, 7, size=size)
    (rounded,) = fake_quantize_weights([torch.from_numpy(weight)], per_channel=per_channel, limit=limit)
    held = quantize_columns(weight.T, per_channel, limit)
    assert np.array_equal(rounded.numpy().T, held.values.astype(np.float32) * held.scales)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans(), st.sampled_from([INT8_LIMIT, REDUCED_LIMIT]))
def test_kernels_are_those_that_the_file_holds(seed: int, per_channel: bool, limit: int) -> None:
    kernel = drawn(seed, 4, 3, 2, 2)
    (rounded,) = fake_quantize_weights([torch.from_numpy(kernel)], per_channel=per_channel, limit=limit)
    held = quantize_kernel(kernel, per_channel, drawn(seed, 4), 0.1, limit)
    assert np.array_equal(
        rounded.numpy(), held.values.astype(np.float32) * held.scales.reshape(-1, *[1] * 3 * per_channel)
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, st.sampled_from([4, 8]), st.sampled_from([16, 32]), st.booleans())
def test_tables_are_those_that_the_file_holds(
    seed: int, size: float, bits: int, block: int, ties: bool
) -> None:
    rows = drawn(seed, 4, 40, size=size)
    if ties:
        rows[0, 3], rows[0, 7] = -9 * size, 9 * size
        rows[1, 3], rows[1, 7] = 9 * size, -9 * size
    rounded = fake_quantize_blocks(torch.from_numpy(rows), bits=bits, block=block)
    assert np.array_equal(rounded.numpy(), quantize_blocks(rows, block, bits, symmetric=True).dequantized())


@settings(max_examples=30, deadline=None)
@given(SEEDS, SIZES)
def test_a_table_of_one_scale_is_that_of_the_file(seed: int, size: float) -> None:
    rows = drawn(seed, 4, 40, size=size)
    held = quantize_table(rows)
    expected = (held.values.astype(np.float32) - held.zero_point) * held.scales
    assert np.array_equal(fake_quantize_table(torch.from_numpy(rows)).numpy(), expected)


RANGES = st.floats(-100, 100, width=32)


@settings(max_examples=100, deadline=None)
@given(SEEDS, RANGES, RANGES)
def test_activations_are_those_of_the_integers(seed: int, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    scale, zero = activation_scale(low, high)
    made = scale_and_zero_point(torch.tensor(low), torch.tensor(high))
    assert [float(value) for value in made] == [float(np.float32(scale)), zero]
    values = drawn(seed, 50, size=max(abs(low), abs(high), 1.0))
    rounded = fake_quantize_activations(torch.from_numpy(values), torch.tensor(low), torch.tensor(high))
    expected = quantize_dequantize(values, float(np.float32(scale)), zero)
    assert rounded.numpy() == pytest.approx(expected, rel=1e-6)
