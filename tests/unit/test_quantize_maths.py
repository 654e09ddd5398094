"""The arithmetic of quantization against values worked out by hand, and its promises on random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compress.core.task_kind import ACCURACY
from compress.measuring.variants import Variant
from compress.passes.quantize.calibration.ranges import entropy_range, percentile_range
from compress.passes.quantize.embeddings import block_size_for
from compress.passes.quantize.int8.affine import activation_scale, quantize_columns, quantize_table
from compress.passes.quantize.schemes import choose_scheme
from compress.passes.quantize.weight_only.blocks import pack_nibbles, quantize_blocks
from compress.tasks.causal_lm.kind import PERPLEXITY

WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-100, 100, width=32),
)


def test_columns_by_hand():
    weight = np.array([[1.27, -0.5], [-0.635, 0.25]], np.float32)
    quantized = quantize_columns(weight)
    np.testing.assert_allclose(quantized.scales, [0.01, 0.5 / 127], rtol=1e-6)
    np.testing.assert_array_equal(quantized.values, [[127, -127], [-64, 64]])


def test_one_scale_for_the_whole_weight():
    weight = np.array([[1.27, -0.5], [-0.635, 0.25]], np.float32)
    quantized = quantize_columns(weight, per_channel=False)
    assert quantized.scales.shape == ()
    np.testing.assert_array_equal(quantized.values, [[127, -50], [-64, 25]])


@given(WEIGHTS)
def test_columns_are_off_by_half_a_step_at_most(weight):
    quantized = quantize_columns(weight)
    error = np.abs(quantized.values * quantized.scales - weight)
    assert (error <= quantized.scales * 0.5 + 1e-5 * np.abs(weight).max(axis=0)).all()
    assert quantized.values.min() >= -127


@given(WEIGHTS)
def test_tables_are_off_by_half_a_step_at_most(table):
    quantized = quantize_table(table)
    restored = (quantized.values.astype(np.float32) - quantized.zero_point) * quantized.scales
    assert np.abs(restored - table).max() <= float(quantized.scales) * 0.5 + 1e-4


def test_activation_range_by_hand():
    assert activation_scale(-1.0, 1.55) == (pytest.approx(0.01), 100)
    # A range that leaves 0 out is widened to it.
    assert activation_scale(1.0, 2.55) == (pytest.approx(0.01), 0)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_zero_is_represented_exactly(one, other):
    scale, zero = activation_scale(min(one, other), max(one, other))
    assert 0 <= zero <= 255
    assert scale > 0


def test_symmetric_blocks_by_hand():
    rows = np.array([[-8.0, 4.0, 2.0, 1.0]], np.float32)
    blocks = quantize_blocks(rows, block_size=4, bits=4, symmetric=True)
    np.testing.assert_array_equal(blocks.scales, [[1.0]])
    np.testing.assert_array_equal(blocks.values, [[[0, 12, 10, 9]]])
    np.testing.assert_array_equal(blocks.dequantized(), rows)


def test_asymmetric_blocks_by_hand():
    rows = np.array([[0.0, 15.0, 7.0, 3.0]], np.float32)
    blocks = quantize_blocks(rows, block_size=4, bits=4, symmetric=False)
    np.testing.assert_array_equal(blocks.zero_points, [[0]])
    np.testing.assert_array_equal(blocks.values, [[[0, 15, 7, 3]]])


@given(WEIGHTS, st.sampled_from([16, 32]), st.booleans())
def test_blocks_restore_within_a_step(rows, block_size, symmetric):
    blocks = quantize_blocks(rows, block_size, 4, symmetric)
    assert blocks.values.shape == (len(rows), -(-rows.shape[1] // block_size), block_size)
    step = np.repeat(np.abs(blocks.scales), block_size, axis=1)[:, : rows.shape[1]]
    assert (np.abs(blocks.dequantized() - rows) <= step * 1.01 + 1e-4).all()


def test_nibbles_low_half_first():
    np.testing.assert_array_equal(pack_nibbles(np.array([[1, 2, 3]], np.uint8)), [[0x21, 0x03]])


@pytest.mark.parametrize(("width", "size"), [(384, 128), (128, 128), (192, 64), (96, 32), (40, 16)])
def test_block_size_divides_where_it_can(width, size):
    assert block_size_for(width, 128) == size


def test_percentile_cuts_rare_values():
    counts = np.array([1, 0, 499_000, 499_999, 0, 1000])
    low, high = percentile_range(counts, np.linspace(-3, 3, 7), percentile=99.0)
    assert (low, high) == (-1.0, 1.0)


def test_entropy_cuts_a_lone_outlier():
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(0, 1, 100_000), 200.0)
    counts, edges = np.histogram(values, 2048)
    _, high = entropy_range(counts, edges)
    assert high < 100


def test_entropy_keeps_an_even_spread():
    counts = np.full(2048, 50)
    low, high = entropy_range(counts, np.linspace(-1, 1, 2049))
    assert (low, high) == (-1.0, 1.0)


def test_the_fastest_within_half_a_point_wins():
    found = {
        "dynamic": Variant(0.957, 2.0),
        "static": Variant(0.953, 1.8),
        "worse": Variant(0.951, 1.0),
    }
    assert choose_scheme(found, ACCURACY) == "static"


def test_half_a_percent_of_a_perplexity_is_as_good():
    found = {"dynamic": Variant(-20.0, 2.0), "static": Variant(-20.09, 1.0), "worse": Variant(-20.2, 0.5)}
    assert choose_scheme(found, PERPLEXITY) == "static"


def test_noise_does_not_choose():
    assert choose_scheme({"a": Variant(0.95, 1.0), "b": Variant(0.951, 1.04)}, ACCURACY) == "b"
    assert choose_scheme({"a": Variant(0.95, 1.03), "b": Variant(0.95, 1.0)}, ACCURACY) == "a"
    assert choose_scheme({"a": Variant(0.95, 1.0), "b": Variant(0.951, 1.06)}, ACCURACY) == "a"
