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
from compress.passes.quantize.calibration.activation_capture import fed, open_from_disk
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.embeddings import table_blocks
from compress.passes.quantize.int8.gain.probe import typical_length
from compress.passes.quantize.layers import Layer, Table, layers, layers_to_quantize, nodes_named
from compress.passes.quantize.mixed.search import requantize_until, restore_within
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
    chosen: Sequence[Layer],
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
    sharing: dict[ir.Value, list[Layer]] = {}
    for layer in chosen:
        sharing.setdefault(layer.weight_value, []).append(layer)
    weights = {value.name or "": constant_of(value).astype(np.float32) for value in sharing}
    examples = [fed(graph.inputs, batch) for batch in batches()]
    for value in sharing:
        array = weights[value.name or ""]
        graph.initializers.pop(value.name or "")
        value.const_value = None
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
        graph.inputs.append(value)
    session = open_from_disk(model, work)
    first = session.get_outputs()[0].name

    def outputs(changed: Mapping[str, Floats]) -> list[Floats]:
        return [session.run([first], {**example, **weights, **changed})[0] for example in examples]

    reference, found = outputs({}), list[Sensitivity]()
    deadline = time.monotonic() + 60 * (spec.mixed.minutes if spec.mixed is not None else 0)
    with progress.bar("sensitivity of each weight", len(sharing)) as advance:
        for value, layers in sharing.items():
            name, lost = value.name or "", None
            rounded, extra = _rounded(layers, weights[name], spec)
            if not found or time.monotonic() < deadline:
                pairs = zip(reference, outputs({name: rounded}), strict=True)
                lost = float(np.mean([divergence(*pair) for pair in pairs]))
            names = tuple(layer.node.name or "" for layer in layers)
            found.append(Sensitivity(names, weights[name].size, lost, extra))
            advance()
    return found


def _rounded(layers: Sequence[Layer], weight: Floats, spec: WeightOnlySpec) -> tuple[Floats, int]:
    """Return a weight quantized in few bits and dequantized, and the extra bytes that 8 bits would take."""
    is_table = any(isinstance(layer, Table) for layer in layers)
    turned = not (isinstance(layers[0], Table) or layers[0].transposed)
    rows = weight.T if turned else weight
    block = spec.block_of(rows.shape[1])
    blocks = quantize_blocks(rows, block, spec.bits, spec.symmetric)
    # The sizes of scales and zero points do not depend on the values.
    one = table_blocks(rows[:1], 8) if is_table else quantize_blocks(rows[:1], block, 8, spec.symmetric)
    restored = blocks.dequantized()
    return np.ascontiguousarray(restored.T if turned else restored), len(rows) * _bytes(one) - _bytes(blocks)


def _bytes(blocks: Blocks) -> int:
    zeros = blocks.packed_zeros()
    return blocks.packed().nbytes + blocks.scales.nbytes + (0 if zeros is None else zeros.nbytes)


def with_eight_bits(
    ctx: StepContext, source: Artifact, spec: WeightOnlySpec
) -> tuple[WeightOnlySpec, dict[str, Any]]:
    """Return the spec with the weights chosen by `mixed` added to `eight_bits`, and the measurements as facts.

    Raises:
        PassError: the file exceeds the limit even without them.
    """
    assert spec.mixed is not None
    path, most, folder = source.path / ONNX_MODEL, spec.mixed.size_mb, ctx.work / "mixed"
    nearest = spec.model_copy(update={"method": "rtn", "mixed": None})
    # An image is one token to the encoder, but many rows to the model.
    each = typical_length(ctx, source) if ctx.task.kind.items == "image" else 1
    most_read = max(1, spec.mixed.tokens // each)
    batches = calibration_batches(ctx, source, most_read, most_read)
    make_folder(folder)

    def size_mb(eight: Iterable[str]) -> float:
        model = ir.load(path)
        wider = nearest.model_copy(update={"eight_bits": (*spec.eight_bits, *eight)})
        quantize_weights(model, path, wider, batches, folder)
        save_onnx(model, folder)
        return megabytes(model_bytes(folder))

    least = size_mb(())
    if least > most:
        raise PassError(
            f"{most:g} MB cannot be reached: with every weight in {spec.bits} bits the file has {least:.3f} MB",
            where="quantize.mixed.size_mb",
            hint="Raise the limit, use larger blocks, or make the model smaller first.",
        )
    model = ir.load(path)
    chosen = _narrow(model.graph, spec)
    known = sensitivities(model, chosen, spec, batches, ctx.task.divergence, folder, ctx.progress)
    losses, costs = [one.divergence or 0.0 for one in known], [float(one.extra_bytes) for one in known]
    names = [one.layers[0] for one in known]
    eight, measured = requantize_until(
        restore_within(losses, costs, BYTES_PER_MB * (most - least)),
        losses,
        costs,
        most,
        lambda given: size_mb(names[place] for place in given),
    )
    remove(folder)
    facts = {
        "size_mb": most,
        "least_mb": least,
        "rounded_mb": measured,
        "measured": sum(one.divergence is not None for one in known),
        "weights": [
            {"layer": one.layers[0], "divergence": one.divergence, "eight_bits": place in eight}
            for place, one in enumerate(known)
        ],
    }
    wider = (*spec.eight_bits, *(names[place] for place in sorted(eight)))
    return spec.model_copy(update={"eight_bits": wider, "mixed": None}), facts


def _narrow(graph: ir.Graph, spec: WeightOnlySpec) -> list[Layer]:
    """Return the layers whose weights get fewer than 8 bits."""
    kept = layers_to_quantize(graph, spec)
    named = nodes_named([layer.node for layer in layers(graph)], spec.eight_bits, "quantize.eight_bits")
    wide = {layer.weight_value for layer in kept if layer.node in named}
    wide |= {layer.weight_value for layer in kept if isinstance(layer, Table) and spec.table_bits == 8}
    return [
        layer
        for layer in kept
        if layer.weight_value not in wide and (spec.embeddings or not isinstance(layer, Table))
    ]
