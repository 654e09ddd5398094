"""Ranges of activations on training examples: one pass, one example at a time, in memory of one size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_capture import Floats, observe
from compress.passes.quantize.calibration.observers import AverageExtremes, Extremes, Histogram
from compress.passes.quantize.calibration.ranges import (
    PERCENTILE,
    Range,
    around_zero,
    entropy_range,
    mse_range,
    percentile_range,
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
    """The range of each named value over all batches.

    Args:
        path: the float model.
        names: values of its graph, inputs included.
        batches: starts an iteration over the inputs, unpadded (a padded position is no activation).
        method: `minmax` keeps everything, `average` is the mean of the examples' extremes, and the others cut rare
            values off.
        work: where a copy of the model with more outputs may lie for a moment.
        percentile: percent of the values that `percentile` keeps.
        symmetric: make ranges that hold both signs symmetric around zero.
        optional: names that have no range where they are not finite floats on every example.
    """
    if not names:
        return {}
    seen = collect(names, observe(path, names, batches(), work, optional), method)
    found = {name: range_of(one, method, percentile) for name, one in seen.items()}
    return {name: around_zero(one) for name, one in found.items()} if symmetric else found


def collect(
    names: Sequence[str], examples: Iterator[Mapping[str, Floats]], method: Method
) -> dict[str, Statistic]:
    """What a method keeps of each value that every example has."""
    kinds: dict[str, type[Statistic]] = {"minmax": Extremes, "average": AverageExtremes}
    kept: dict[str, Statistic] = {name: kinds.get(method, Histogram)() for name in names}
    for example in examples:
        for name in list(kept):
            if name in example:
                kept[name].add(example[name])
            else:
                del kept[name]
    return kept


def range_of(kept: Statistic, method: Method, percentile: float = PERCENTILE) -> Range:
    """The range that a method makes of what it kept."""
    if not isinstance(kept, Histogram):
        return kept.low, kept.high
    counts, edges = kept.between_extremes()
    if method == "percentile":
        return percentile_range(counts, edges, percentile)
    return entropy_range(counts, edges) if method == "entropy" else mse_range(counts, edges)
