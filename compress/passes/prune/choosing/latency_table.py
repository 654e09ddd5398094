"""Latency tables of encoder layer parts by number of heads and feed-forward width, timed on small graphs.

One table per structure, as in ZipLM (Kurtic et al. 2023, arXiv:2302.04089): a graph has several copies of a part with
weights of their own, so that weights are read from memory as in the model, and runs in the runner's sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.core.units import BYTES_PER_MB, MIB
from compress.encoding.inputs import Batch
from compress.lowering.export import OPSET
from compress.lowering.graph import MS_DOMAIN
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.disturbance import any_disturbed
from compress.measuring.timing.latency import VariantTimes, time_models, undisturbed_ms
from compress.profile.schema import MeasureSpec
from compress.targets.local import ResolvedTarget

MAX_TIMED_SIZES = 8
"""Number of sizes of each part that are timed; the others are interpolated."""
MAX_COPIES = 6
"""Maximum number of copies of a part in its graph."""
MAX_GRAPH_BYTES = 128 * MIB
"""Maximum bytes of weights in one graph, except for a single copy."""
MEMORY_SHARE = 4
"""All graphs together use at most 1 / MEMORY_SHARE of the target machine's memory, except for one copy each.

This holds even if a GPU runs them.
"""
TIMING_SETTINGS = MeasureSpec(examples=1, min_seconds=8.0, min_rounds=20)
PROCESSES = 4
IR_VERSION = 10


@dataclass(frozen=True)
class LayerShape:
    """Input shape of a layer (batch, tokens, hidden), and size of its heads.

    `last_tokens`: tokens that the last layer's maps after attention process: all, or only those that the head reads.
    """

    batch: int
    tokens: int
    hidden: int
    head_size: int
    last_tokens: int
    masked: bool


@dataclass(frozen=True)
class LatencyTable:
    """Latency in ms of attention by number of heads and of the feed-forward part by width, for inner and last layers.

    Each table holds pairs (size, ms) of increasing size. `rest_ms` is the model without its layers on the same input,
    timed in turns with them. `disturbed`: other processes disturbed the timing beyond use.
    """

    heads: tuple[tuple[int, float], ...]
    units: tuple[tuple[int, float], ...]
    last_heads: tuple[tuple[int, float], ...]
    last_units: tuple[tuple[int, float], ...]
    rest_ms: float
    disturbed: bool = False

    def attention_ms(self, heads: int, *, last: bool) -> float:
        """Return the latency of attention with this number of heads, norm included."""
        return interpolate(self.last_heads if last else self.heads, heads)

    def feed_forward_ms(self, width: int, *, last: bool) -> float:
        """Return the latency of a feed-forward part of this width, norm included."""
        return interpolate(self.last_units if last else self.units, width)


def interpolate(points: Sequence[tuple[int, float]], size: int) -> float:
    """Interpolate the latency of a size between the timed ones."""
    sizes, times = zip(*points, strict=True)
    return float(np.interp(size, sizes, times))


def isotonic(times: Sequence[float]) -> list[float]:
    """Return the nearest non-decreasing times for increasing sizes, which removes noise.

    Isotonic regression by pool adjacent violators (Barlow et al. 1972): decreasing neighbours are averaged.
    """
    blocks: list[list[float]] = []
    for time in times:
        blocks.append([time])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [float(np.mean(block)) for block in blocks for _ in block]


def timed_sizes(maximum: int, multiple: int) -> list[int]:
    """Return evenly spread sizes up to `maximum`: multiples of `multiple`, and `maximum` itself."""
    multiple = min(multiple, maximum)
    exact = np.linspace(multiple, maximum, MAX_TIMED_SIZES)
    return sorted({maximum, *(max(multiple, multiple * round(size / multiple)) for size in exact[:-1])} - {0})


def measure_table(
    shape: LayerShape,
    heads: int,
    width: int,
    round_to: int,
    layers: int,
    target: ResolvedTarget,
    folder: Path,
    rest: tuple[Path, Batch],
) -> LatencyTable:
    """Time the parts of a layer with up to `heads` heads and a feed-forward width of up to `width`.

    Args:
        layers: layers of the model; this many copies of a part are timed together, but no more than fit.
        target: where they are timed.
        folder: empty; graphs and jobs are written there.
        rest: the ONNX file of the model without its layers, and an input of the length given by `shape`.

    Raises:
        TargetError: a graph cannot be run, or the device of the target is lost.
    """
    sizes = {"attention": timed_sizes(heads, 1), "feed_forward": timed_sizes(width, round_to)}
    same_tokens = shape.last_tokens == shape.tokens
    parts = [
        (part, size, last)
        for last in (False, True)
        if not (last and same_tokens)
        for part in sizes
        for size in sizes[part]
    ]
    copy_bytes = min(
        MAX_GRAPH_BYTES, int(target.description["memory_mb"] * BYTES_PER_MB) // (MEMORY_SHARE * len(parts))
    )
    paths, copies = [folder / "empty.onnx"], [0]
    onnx.save(part_graph(shape, "attention", 1, 0, last=False), str(paths[0]))
    for part, size, last in parts:
        bytes_each = 4 * shape.hidden * size * (4 * shape.head_size if part == "attention" else 2)
        copies.append(max(1, min(MAX_COPIES, layers, copy_bytes // bytes_each)))
        paths.append(folder / f"{part}-{size}-{'last' if last else 'inner'}.onnx")
        onnx.save(part_graph(shape, part, size, copies[-1], last=last), str(paths[-1]))
    (*times, rest_ms), disturbed = _time(shape, paths, target, folder, rest)
    points: dict[tuple[str, bool], list[tuple[int, float]]] = {}
    for (part, size, last), count, time in zip(parts, copies[1:], times[1:], strict=True):
        points.setdefault((part, last), []).append((size, max(0.0, time - times[0]) / count))
    tables = {
        key: tuple(zip([size for size, _ in each], isotonic([time for _, time in each]), strict=True))
        for key, each in points.items()
    }
    return LatencyTable(
        tables["attention", False],
        tables["feed_forward", False],
        tables["attention", not same_tokens],
        tables["feed_forward", not same_tokens],
        rest_ms,
        disturbed,
    )


def part_graph(shape: LayerShape, part: str, size: int, copies: int, *, last: bool) -> onnx.ModelProto:
    """Build a graph with copies of attention with `size` heads or of a feed-forward part of width `size`, as lowered.

    The copies run one after another; those of a last layer side by side, as its output has fewer tokens than its input.
    Inputs `x`, float32 (batch, tokens, hidden), and `mask`, int32 (batch, tokens). Weights are random.
    """
    graph = _Graph(shape)
    results = []
    for _ in range(copies):
        result = graph.attention(size, last=last) if part == "attention" else graph.feed_forward(size)
        results.append(result)
        if not last:
            graph.value = result
    result = graph.value
    if last:
        result = results[0] if len(results) == 1 else graph.node("Sum", results)
    return graph.model(result)


class _Graph:
    """Builder of a graph; `value` is the input of the next part."""

    def __init__(self, shape: LayerShape) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.value = "x"

    def attention(self, heads: int, *, last: bool) -> str:
        shape, source = self.shape, self.value
        projected = heads * shape.head_size
        inputs = [source, self.weight(shape.hidden, 3 * projected), self.weight(3 * projected)]
        name = self.node(
            "Attention",
            [*inputs, *(["mask"] if shape.masked else [])],
            domain=MS_DOMAIN,
            num_heads=heads,
            qkv_hidden_sizes=[projected] * 3,
        )
        if last:
            name, source = self.select_tokens(name), self.select_tokens(source)
        return self.project_and_norm(name, source, self.weight(projected, shape.hidden))

    def feed_forward(self, width: int) -> str:
        source = self.value
        hidden = self.node("MatMul", [source, self.weight(self.shape.hidden, width)])
        hidden = self.node("Gelu", [self.node("Add", [hidden, self.weight(width)])])
        return self.project_and_norm(hidden, source, self.weight(width, self.shape.hidden))

    def select_tokens(self, value: str) -> str:
        """Select the tokens that the head reads."""
        first = numpy_helper.from_array(
            np.arange(self.shape.last_tokens, dtype=np.int64), f"first{len(self.weights)}"
        )
        self.weights.append(first)
        return self.node("Gather", [value, first.name], axis=1)

    def project_and_norm(self, value: str, source: str, weight: str) -> str:
        """Append the output projection with its bias, the residual sum, and the norm."""
        product = self.node("MatMul", [value, weight])
        total = self.node("Add", [self.node("Add", [product, self.weight(self.shape.hidden)]), source])
        scales = [self.weight(self.shape.hidden), self.weight(self.shape.hidden)]
        return self.node("LayerNormalization", [total, *scales], axis=-1)

    def weight(self, *dims: int) -> str:
        name = f"w{len(self.weights)}"
        values: NDArray[np.float32] = self.random.standard_normal(dims, dtype=np.float32) * np.float32(0.02)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def model(self, result: str) -> onnx.ModelProto:
        shape = self.shape
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        inputs = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape.batch, "tokens", shape.hidden]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, [shape.batch, "keys"]),
        ]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "part", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MS_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _time(
    shape: LayerShape, paths: Sequence[Path], target: ResolvedTarget, folder: Path, rest: tuple[Path, Batch]
) -> VariantTimes:
    """Return ms of each graph and of the rest of the model, timed in turns."""
    jobs = JobFolder.of_target(folder, target)
    feeds: Mapping[int, str] = {
        tokens: jobs.feeds(f"tokens-{tokens}", [_batch(shape, tokens)])
        for tokens in {shape.tokens, shape.last_tokens}
    }
    model_feeds = [
        feeds[
            shape.last_tokens
            if path.stem.startswith("feed_forward") and path.stem.endswith("last")
            else shape.tokens
        ]
        for path in paths
    ]
    models = [*map(str, paths), str(rest[0])]
    model_feeds.append(jobs.feeds("rest", [rest[1]]))
    results = time_models(jobs, models, [model_feeds], TIMING_SETTINGS, processes=PROCESSES)
    times = tuple(undisturbed_ms(results, which) for which in range(len(models)))
    return VariantTimes(times, any_disturbed(results))


def _batch(shape: LayerShape, tokens: int) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(0)
    return {
        "x": random.standard_normal((shape.batch, tokens, shape.hidden), dtype=np.float32),
        "mask": np.ones((shape.batch, tokens), np.int32),
    }
