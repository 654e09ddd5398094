"""Ranges of activations on training examples, one example at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.passes.quantize.ranges import Range, entropy_range, percentile_range
from compress.runtimes.runner import open_session
from compress.tasks.base import Batch

Method = Literal["minmax", "entropy", "percentile"]
BINS = 2048


def calibrate(
    path: Path, names: Sequence[str], batches: Callable[[], Iterator[Batch]], method: Method, work: Path
) -> dict[str, Range]:
    """The range of each named value over all batches.

    Args:
        path: the float model.
        names: values of its graph, inputs included.
        batches: starts an iteration over the inputs, unpadded (a padded position is no activation); histograms
            need two of them.
        method: `minmax` keeps everything, the others cut rare values off.
        work: where the instrumented graph may lie for a moment.
    """
    ranges = _extremes(path, names, batches(), work)
    if method == "minmax":
        return ranges
    reduce = entropy_range if method == "entropy" else percentile_range
    found = {}
    for name, (counts, edges) in _histograms(path, ranges, batches(), work).items():
        found[name] = reduce(counts, edges)
    return found


def _extremes(path: Path, names: Sequence[str], batches: Iterator[Batch], work: Path) -> dict[str, Range]:
    """Smallest and largest value, reduced inside the session."""
    outputs = [f"{name}.{end}" for name in names for end in ("Min", "Max")]

    def observe(model: ir.Model, values: dict[str, ir.Value]) -> None:
        for name in names:
            for end in ("Min", "Max"):
                node = ir.node(f"Reduce{end}", [values[name]], {"keepdims": 0})
                _publish(model, node, f"{name}.{end}")

    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    for found in _run(path, observe, outputs, batches, work):
        low = np.minimum(low, np.array(found[0::2], np.float64))
        high = np.maximum(high, np.array(found[1::2], np.float64))
    return {name: (float(one), float(other)) for name, one, other in zip(names, low, high, strict=True)}


def _histograms(
    path: Path, ranges: dict[str, Range], batches: Iterator[Batch], work: Path
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Histograms of 2048 bins between the known extremes."""
    names = list(ranges)
    outputs = [f"{name}.Seen" for name in names]

    def observe(model: ir.Model, values: dict[str, ir.Value]) -> None:
        for name in names:
            _publish(model, ir.node("Identity", [values[name]]), f"{name}.Seen")

    edges = {name: np.linspace(low, max(high, low + 1e-12), BINS + 1) for name, (low, high) in ranges.items()}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for found in _run(path, observe, outputs, batches, work):
        for name, values in zip(names, found, strict=True):
            counts[name] += np.histogram(values, edges[name])[0]
    return {name: (counts[name], edges[name]) for name in names}


def _run(
    path: Path,
    observe: Callable[[ir.Model, dict[str, ir.Value]], None],
    outputs: list[str],
    batches: Iterator[Batch],
    work: Path,
) -> Iterator[list[NDArray[np.float32]]]:
    """The named outputs of an instrumented copy of the model, batch after batch."""
    model = ir.load(path)
    made = [value for node in model.graph for value in node.outputs]
    values = {value.name: value for value in (*model.graph.inputs, *made) if value.name}
    observe(model, values)
    instrumented = work / "calibration.onnx"
    try:
        ir.save(model, instrumented)
        session = open_session(str(instrumented))
    finally:
        instrumented.unlink(missing_ok=True)
    for batch in batches:
        yield session.run(outputs, dict(batch))


def _publish(model: ir.Model, node: ir.Node, name: str) -> None:
    """Add a node whose float output is an output of the graph."""
    value = node.outputs[0]
    value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    model.graph.outputs.append(value)
