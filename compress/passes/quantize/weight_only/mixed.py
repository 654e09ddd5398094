"""Choose the weights that get 8 bits within a file size: those that lose most in few bits, per byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.core.disk.files import make_folder, remove
from compress.core.errors import PassError
from compress.core.terminal.progress import Progress
from compress.core.units import BYTES_PER_MB, megabytes
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.lowering.graph import constant_of
from compress.passes.quantize.calibration.activation_capture import model_feeds, open_from_disk
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.embeddings import table_blocks
from compress.passes.quantize.int8.gain.probe import typical_rows
from compress.passes.quantize.layers import Layer, Table, layers_to_quantize, matching_nodes, weighted_layers
from compress.passes.quantize.mixed.search import requantize_until_limit, restore_within_budget
from compress.passes.quantize.size_check import model_bytes
from compress.passes.quantize.weight_only.blocks import Blocks, quantize_blocks
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.step import StepContext

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sensitivity:
    """Effect of one weight on the outputs while it alone is block-quantized in few bits, and the extra cost of 8 bits.

    `layers`: names of the nodes that use it. `divergence`: from the outputs of the float model; None: not measured in
    time.
    """

    layers: tuple[str, ...]
    weights: int
    divergence: float | None
    extra_bytes: int


def sensitivities(
    model: ir.Model,
    selected: Sequence[Layer],
    spec: WeightOnlySpec,
    batches: Callable[[], Iterator[Batch]],
    divergence: Callable[[Floats, Floats], float],
    work: Path,
    progress: Progress,
) -> list[Sensitivity]:
    """Measure each weight of these layers alone in the spec's bits, rounded to nearest, in graph order.

    A single session runs all variants: the weights are inputs of its graph.

    Args:
        model: float; changed in place.
        batches: starts an iteration over unpadded examples.
        divergence: of outputs (n, ...) from those of the float model.
        work: folder for a temporary copy of the graph.
    """
    graph = model.graph
    layers_by_weight: dict[ir.Value, list[Layer]] = {}
    for layer in selected:
        layers_by_weight.setdefault(layer.weight_value, []).append(layer)
    weights = {value.name or "": constant_of(value).astype(np.float32) for value in layers_by_weight}
    examples = [model_feeds(graph.inputs, batch) for batch in batches()]
    for value in layers_by_weight:
        array = weights[value.name or ""]
        graph.initializers.pop(value.name or "")
        value.const_value = None
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
        graph.inputs.append(value)
    session = open_from_disk(model, work)
    first = session.get_outputs()[0].name

    def outputs(replaced: Mapping[str, Floats]) -> list[Floats]:
        return [session.run([first], {**example, **weights, **replaced})[0] for example in examples]

    reference, results = outputs({}), list[Sensitivity]()
    deadline = time.monotonic() + 60 * (spec.mixed.minutes if spec.mixed is not None else 0)
    with progress.bar("sensitivity of each weight", len(layers_by_weight)) as advance:
        for value, layers in layers_by_weight.items():
            name, loss = value.name or "", None
            rounded, extra_bytes = _fake_quantized(layers, weights[name], spec)
            if not results or time.monotonic() < deadline:
                pairs = zip(reference, outputs({name: rounded}), strict=True)
                loss = float(np.mean([divergence(*pair) for pair in pairs]))
            names = tuple(layer.node.name or "" for layer in layers)
            results.append(Sensitivity(names, weights[name].size, loss, extra_bytes))
            advance()
    return results


def _fake_quantized(layers: Sequence[Layer], weight: Floats, spec: WeightOnlySpec) -> tuple[Floats, int]:
    """Return a weight quantized in few bits and dequantized, and the extra bytes that 8 bits would take."""
    is_table = any(isinstance(layer, Table) for layer in layers)
    is_transposed = not (isinstance(layers[0], Table) or layers[0].transposed)
    rows = weight.T if is_transposed else weight
    block = spec.block_size_for(rows.shape[1])
    blocks = quantize_blocks(rows, block, spec.bits, spec.symmetric)
    # The sizes of scales and zero points do not depend on the values.
    one = table_blocks(rows[:1], 8) if is_table else quantize_blocks(rows[:1], block, 8, spec.symmetric)
    restored = blocks.dequantized()
    return np.ascontiguousarray(restored.T if is_transposed else restored), len(rows) * _num_bytes(
        one
    ) - _num_bytes(blocks)


def _num_bytes(blocks: Blocks) -> int:
    zero_points = blocks.packed_zero_points()
    return blocks.packed().nbytes + blocks.scales.nbytes + (0 if zero_points is None else zero_points.nbytes)


def with_eight_bits(
    ctx: StepContext, source: Artifact, spec: WeightOnlySpec
) -> tuple[WeightOnlySpec, dict[str, Any]]:
    """Return the spec with the weights chosen by `mixed` added to `eight_bits`, and the measurements as facts.

    Raises:
        PassError: the file exceeds the limit even without them.
    """
    assert spec.mixed is not None
    path, max_mb, folder = source.path / ONNX_MODEL, spec.mixed.size_mb, ctx.work / "mixed"
    rtn_spec = spec.model_copy(update={"method": "rtn", "mixed": None})
    # An image is one token to the encoder, but many rows to the model.
    each = typical_rows(ctx, source) if ctx.task.kind.items == "image" else 1
    most_read = max(1, spec.mixed.tokens // each)
    batches = calibration_batches(ctx, source, most_read, most_read)
    make_folder(folder)

    def size_mb(eight_bit_names: Iterable[str]) -> float:
        model = ir.load(path)
        wider = rtn_spec.model_copy(update={"eight_bits": (*spec.eight_bits, *eight_bit_names)})
        quantize_weights(model, path, wider, batches, folder)
        save_onnx(model, folder)
        return megabytes(model_bytes(folder))

    min_mb = size_mb(())
    if min_mb > max_mb:
        raise PassError(
            f"{max_mb:g} MB cannot be reached: with every weight in {spec.bits} bits the file has {min_mb:.3f} MB",
            where="quantize.mixed.size_mb",
            hint="Raise the limit, use larger blocks, or make the model smaller first.",
        )
    model = ir.load(path)
    chosen = _low_bit_layers(model.graph, spec)
    measurements = sensitivities(model, chosen, spec, batches, ctx.task.divergence, folder, ctx.progress)
    losses, costs = (
        [measurement.divergence or 0.0 for measurement in measurements],
        [float(measurement.extra_bytes) for measurement in measurements],
    )
    names = [measurement.layers[0] for measurement in measurements]
    eight_bit_indices, measured_mb = requantize_until_limit(
        restore_within_budget(losses, costs, BYTES_PER_MB * (max_mb - min_mb)),
        losses,
        costs,
        max_mb,
        lambda given: size_mb(names[place] for place in given),
    )
    remove(folder)
    facts = {
        "size_mb": max_mb,
        "least_mb": min_mb,
        "rounded_mb": measured_mb,
        "measured": sum(measurement.divergence is not None for measurement in measurements),
        "weights": [
            {
                "layer": measurement.layers[0],
                "divergence": measurement.divergence,
                "eight_bits": index in eight_bit_indices,
            }
            for index, measurement in enumerate(measurements)
        ],
    }
    patterns = (*spec.eight_bits, *(names[index] for index in sorted(eight_bit_indices)))
    return spec.model_copy(update={"eight_bits": patterns, "mixed": None}), facts


def _low_bit_layers(graph: ir.Graph, spec: WeightOnlySpec) -> list[Layer]:
    """Return the layers whose weights get fewer than 8 bits."""
    included = layers_to_quantize(graph, spec)
    named = matching_nodes(
        [layer.node for layer in weighted_layers(graph)], spec.eight_bits, "quantize.eight_bits"
    )
    eight_bit_weights = {layer.weight_value for layer in included if layer.node in named}
    eight_bit_weights |= {
        layer.weight_value for layer in included if isinstance(layer, Table) and spec.table_bits == 8
    }
    return [
        layer
        for layer in included
        if layer.weight_value not in eight_bit_weights and (spec.embeddings or not isinstance(layer, Table))
    ]
