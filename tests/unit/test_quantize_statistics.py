"""What calibration keeps of values that pass by: exact, whatever their order, and of one size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compress.core.errors import ModelError
from compress.passes.quantize.calibration.activation_capture import capture_activations
from compress.passes.quantize.calibration.activation_ranges import calibrate, collect, range_of
from compress.passes.quantize.calibration.observers import (
    BINS,
    AverageExtremes,
    ChannelMean,
    ChannelSample,
    Extremes,
    Histogram,
)
from compress.passes.quantize.calibration.ranges import mse_range, symmetric_range
from tests.unit.test_quantize_graphs import mlp, normal

PARTS = st.lists(
    arrays.arrays(
        np.float32, st.integers(1, 30), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
    ),
    min_size=1,
    max_size=6,
)


def histogram_of(parts: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


@settings(deadline=None, max_examples=40)
@given(PARTS)
def test_a_histogram_is_that_of_all_values_at_once(parts):
    counts, edges = histogram_of(parts).trimmed_histogram()
    every = np.concatenate(parts).astype(np.float64)
    assert (edges[0], edges[-1]) == (every.min(), every.max())
    assert counts.sum() == len(every)
    assert len(edges) == len(counts) + 1 <= BINS + 1
    # Bins are closed below, as numpy's are but for the last, which holds the largest value.
    inner = edges[1:-1]
    np.testing.assert_array_equal(
        np.cumsum(counts)[:-1], [np.count_nonzero(every < edge) for edge in inner.tolist()]
    )


@settings(deadline=None, max_examples=40)
@given(PARTS)
def test_the_order_of_the_values_does_not_matter(parts):
    one, other = histogram_of(parts), histogram_of(parts[::-1])
    for found, wanted in zip(one.trimmed_histogram(), other.trimmed_histogram(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_bins_are_fine_where_the_values_are():
    counts, _ = histogram_of([np.linspace(0, 1.01, 1000, dtype=np.float32)]).trimmed_histogram()
    assert len(counts) >= BINS // 4


def test_zeros_alone_make_one_bin():
    counts, edges = histogram_of([np.zeros(5, np.float32)]).trimmed_histogram()
    assert counts.tolist() == [5]
    assert edges.tolist() == [0, 0]
    assert mse_range(counts, edges) == (0, 0)


def test_moving_average_by_hand():
    average = AverageExtremes()
    for low, high in ((-1, 2), (-3, 4), (-2, 0)):
        average.add(np.array([low, 0, high], np.float32))
    assert (average.low, average.high) == (pytest.approx(-2), pytest.approx(2))
    average.examples = 500
    average.add(np.array([-102, 102], np.float32))
    assert (average.low, average.high) == (pytest.approx(-3), pytest.approx(3))


def test_channel_means_count_rows_not_examples():
    mean = ChannelMean(axis=1)
    parts = [normal(1, 3, 4, 4), normal(1, 3, 2, 2)]
    for part in parts:
        mean.add(part)
    rows = np.concatenate([part.transpose(0, 2, 3, 1).reshape(-1, 3) for part in parts])
    np.testing.assert_allclose(mean.mean, rows.mean(axis=0), rtol=1e-5)


def test_rows_are_drawn_from_all_alike():
    sample = ChannelSample(size=200)
    for start in range(0, 4000, 40):
        sample.add(np.arange(start, start + 40, dtype=np.float32).reshape(1, 40, 1))
    rows = sample.rows[:, 0]
    assert len(np.unique(rows)) == 200
    assert abs(rows.mean() - 2000) < 3 * 4000 / np.sqrt(12 * 200)
    assert (sample.low[0], sample.high[0]) == (0, 3999)


def test_few_rows_are_all_kept():
    sample, rows = ChannelSample(size=10), normal(4, 3)
    sample.add(rows)
    np.testing.assert_array_equal(sample.rows, rows)


@pytest.mark.parametrize("method", ["minmax", "average", "entropy", "percentile", "mse"])
def test_nothing_grows_with_the_examples(method):
    def examples(count: int) -> Iterator[dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        for _ in range(count):
            yield {"x": random.normal(size=(1, 8, 16)).astype(np.float32) * 100}

    def held(count: int) -> int:
        (kept,) = collect(["x"], examples(count), method).values()
        return bytes_of(kept)

    assert held(2) == held(300)


def bytes_of(kept: object) -> int:
    parts = vars(kept).values()
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray)) + len(parts)


def test_a_sample_has_one_size_too():
    sample, mean = ChannelSample(size=16), ChannelMean(axis=-1)
    sizes = set()
    for _ in range(50):
        values = normal(1, 20, 8)
        sample.add(values)
        mean.add(values)
        sizes.add((bytes_of(sample), bytes_of(mean)))
    assert len(sizes) == 1


def rounding_error(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = round(-low / scale)
    return float(np.square((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale - values).mean())


@pytest.mark.parametrize("kind", ["outlier", "tails", "one side"])
def test_mse_finds_the_best_cut(kind):
    random = np.random.default_rng(0)
    values = {
        "outlier": np.append(random.normal(0, 1, 100_000), 60.0),
        "tails": random.standard_t(3, 20_000),
        "one side": np.abs(random.standard_t(3, 20_000)),
    }[kind].astype(np.float32)
    least, most = float(values.min()), float(values.max())
    cuts = max(-least, most) * np.linspace(0.05, 1, 96)
    best = min(rounding_error(values, max(least, -cut), min(most, cut)) for cut in cuts.tolist())
    found = mse_range(*histogram_of([values]).trimmed_histogram())
    assert rounding_error(values, *found) <= 1.03 * best
    assert best < rounding_error(values, least, most)


def test_mse_keeps_an_even_spread():
    assert mse_range(np.full(2048, 50), np.linspace(-1, 1, 2049)) == (-1.0, 1.0)


def test_symmetric_ranges():
    assert symmetric_range((-1.0, 3.0)) == (-3.0, 3.0)
    assert symmetric_range((0.0, 3.0)) == (0.0, 3.0)


def test_the_ranges_of_each_method():
    extremes, average = Extremes(), AverageExtremes()
    for part in ([-1.0, 2.0], [-3.0, 8.0]):
        extremes.add(np.array(part, np.float32))
        average.add(np.array(part, np.float32))
    assert range_of(extremes, "minmax") == (-3, 8)
    assert range_of(average, "average") == (-2, 5)
    histogram = histogram_of([np.linspace(-1, 1, 10_001, dtype=np.float32)])
    assert range_of(histogram, "percentile", 90.0) == (
        pytest.approx(-0.9, abs=2e-3),
        pytest.approx(0.9, abs=2e-3),
    )


def test_inputs_and_inner_values_are_observed_and_nothing_is_left(tmp_path: Path):
    model = mlp(2)
    ir.save(model, tmp_path / "m.onnx")
    x = normal(3, 32)
    (seen,) = capture_activations(tmp_path / "m.onnx", ["x", "h1", "y"], iter([{"x": x}]), tmp_path)
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    np.testing.assert_array_equal(seen["x"], x)
    np.testing.assert_allclose(seen["h1"], x @ constants["a"] + constants["b"], rtol=1e-4, atol=1e-4)
    assert seen["y"].shape == (3, 32)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_values_that_are_not_finite_are_refused(tmp_path: Path):
    ir.save(mlp(2), tmp_path / "m.onnx")
    batches = [{"x": normal(1, 32)}, {"x": np.full((1, 32), np.inf, np.float32)}]
    with pytest.raises(ModelError, match="x is not finite on calibration example 1"):
        calibrate(tmp_path / "m.onnx", ["x"], lambda: iter(batches), "minmax", tmp_path)
