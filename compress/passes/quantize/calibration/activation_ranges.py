"""Calibrate activation ranges on training examples in one pass, one example at a time, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_capture import Floats, capture_activations
from compress.passes.quantize.calibration.observers import AverageExtremes, Extremes, Histogram
from compress.passes.quantize.calibration.ranges import (
    PERCENTILE,
    Range,
    entropy_range,
    mse_range,
    percentile_range,
    symmetric_range,
)

Method = Literal["minmax", "average", "entropy", "percentile", "mse"]
Statistic = Extremes | AverageExtremes | Histogram


def calibrate(
    path: Path,
    names: Sequence[str],
    batches: Callable[[], Iterator[Batch]],
    method: Method,
    work: Path,
    *,
    percentile: float = PERCENTILE,
    symmetric: bool = False,
    optional: Collection[str] = (),
) -> dict[str, Range]:
    """Return the range of each named value over all batches.

    Args:
        path: the float model.
        names: values of its graph, inputs included.
        batches: starts an iteration over unpadded inputs (a padded position is not an activation).
        method: `minmax` covers all values, `average` is the mean of the per-example extremes, and the others clip
            outliers.
        work: folder for a temporary copy of the model with extra outputs.
        percentile: percentage of the values that the method `percentile` covers.
        symmetric: make ranges that contain both signs symmetric around zero.
        optional: names that get no range if they are not finite floats on every example.
    """
    if not names:
        return {}
    seen = collect(names, capture_activations(path, names, batches(), work, optional), method)
    found = {name: range_of(one, method, percentile) for name, one in seen.items()}
    return {name: symmetric_range(one) for name, one in found.items()} if symmetric else found


def collect(
    names: Sequence[str], examples: Iterator[Mapping[str, Floats]], method: Method
) -> dict[str, Statistic]:
    """Collect the statistic of a method for each value that is present in every example."""
    kinds: dict[str, type[Statistic]] = {"minmax": Extremes, "average": AverageExtremes}
    statistics: dict[str, Statistic] = {name: kinds.get(method, Histogram)() for name in names}
    for example in examples:
        for name in list(statistics):
            if name in example:
                statistics[name].add(example[name])
            else:
                del statistics[name]
    return statistics


def range_of(statistic: Statistic, method: Method, percentile: float = PERCENTILE) -> Range:
    """Return the range that a method derives from a collected statistic."""
    if not isinstance(statistic, Histogram):
        return statistic.low, statistic.high
    counts, edges = statistic.trimmed_histogram()
    if method == "percentile":
        return percentile_range(counts, edges, percentile)
    return entropy_range(counts, edges) if method == "entropy" else mse_range(counts, edges)
