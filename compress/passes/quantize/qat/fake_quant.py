"""Simulated quantization for training: the model rounds exactly what the integer writers will round.

Everything is derived from the model's own lowered graph, so `exclude`, fused attention, patches of a vision
transformer, early token selection and values that stay integer between convolutions need no rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.passes.quantize.calibration.activation_capture import Floats, capture_activations
from compress.passes.quantize.embeddings import MAX_BLOCK_SIZE, block_size_for
from compress.passes.quantize.int8.convolutions import ranged_value_names
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import (
    calibrated_source,
    calibrated_value_names,
    convolutions,
    quantize_static,
)
from compress.passes.quantize.layers import (
    Convolution,
    Layer,
    Table,
    layers_to_quantize,
    weighted_layers,
)
from compress.passes.quantize.schemes import schemes_for
from compress.passes.quantize.weight_matching import LayerMatch, match_layers, selected_tokens, trace_forward
from compress.training.rounding.integers import (
    fake_quantize_blocks,
    fake_quantize_table,
    fake_quantize_weights,
)
from compress.training.rounding.operations import Operation
from compress.training.rounding.rounded_model import (
    FakeQuantizedActivation,
    FakeQuantizedModel,
    FakeQuantizedWeight,
)


def add_fake_quantization(
    model: nn.Module, path: Path, spec: Int8Spec, limit: int, batch: Mapping[str, Tensor], work: Path
) -> tuple[FakeQuantizedModel, dict[str, Any]]:
    """Wrap a model with the rounding of `spec` simulated; return it and the facts.

    With `scheme: auto`, ranges are those of the first scheme to be measured. Biases are not rounded: in the file they
    are floats, or have 32 bits.

    Args:
        model: float32, on the CPU, in eval mode.
        path: the ONNX file that it was lowered to.
        limit: the largest integer of a weight.
        batch: a few examples, used to match values of the model with those of the file.
        work: folder for a temporary copy of the file.

    Raises:
        ModelError: a pattern in `exclude` matches nothing, or the scheme does not fit a layer.
    """
    graph = ir.load(path).graph
    all_layers = list(weighted_layers(graph))
    quantized = layers_to_quantize(graph, spec)
    scheme = schemes_for(spec, convolutions(quantized))[0]
    rounded_nodes = {layer.node for layer in quantized if spec.embeddings or not isinstance(layer, Table)}
    trace = trace_forward(model, batch)
    # Floating layers are matched too, so that none of several equal weights is mistaken for another.
    all_matches = list(zip(all_layers, match_layers(model, all_layers, trace), strict=True))
    layer_matches = [
        entry for layer, entry in all_matches if entry is not None and layer.node in rounded_nodes
    ]
    unknown = [
        layer.node.name or layer.node.op_type
        for layer, entry in all_matches
        if entry is None and layer.node in rounded_nodes
    ]
    weights = {entry.parameters: _rounded_weight(model, entry, spec, limit) for entry in layer_matches}
    values: list[FakeQuantizedActivation] = []
    stored_ranges: set[str] = set()
    if scheme == "static":
        activations = _activations(path, calibrated_value_names(graph, quantized), batch, work)
        stored_ranges = _stored_ranges(path, spec, activations)
        between = [
            name for name in ranged_value_names(graph, convolutions(quantized)) if name in stored_ranges
        ]
        operations = {name: trace.producer_of(activations[name]) for name in between}
        values += [
            FakeQuantizedActivation(entry, True, symmetric=spec.calibration.symmetric)
            for entry in _distinct_operations(operations)
        ]
        # A value rounded by its producer need not be rounded by its readers.
        stored_ranges -= {name for name, entry in operations.items() if entry is not None}
    values += _rounded_inputs(layer_matches, stored_ranges, scheme, spec, selected_tokens(graph))
    facts = {
        "weights": len(weights),
        "inputs": sum(not isinstance(value.source, Operation) for value in values),
        "between": sum(isinstance(value.source, Operation) for value in values),
        "ranges": "at run time" if scheme == "dynamic" else "running",
        "not_simulated": unknown,
    }
    return FakeQuantizedModel(model, list(weights.values()), values), facts


def _rounded_inputs(
    layer_matches: Sequence[LayerMatch],
    stored_ranges: set[str],
    scheme: str,
    spec: Int8Spec,
    tokens: Mapping[ir.Node, tuple[int, ...]],
) -> list[FakeQuantizedActivation]:
    """Round module inputs: with stored ranges for the names in `stored_ranges`, else with ranges computed at run
    time."""
    values: dict[str, FakeQuantizedActivation] = {}
    for layer_match in layer_matches:
        source = _calibrated_input(layer_match.layer) if scheme == "static" else None
        if source is not None and source.name not in stored_ranges:
            continue
        for module in layer_match.input_modules:
            values[module] = FakeQuantizedActivation(
                module, source is not None, spec.calibration.symmetric, tokens.get(layer_match.layer.node)
            )
    return list(values.values())


def _activations(
    path: Path, names: Sequence[str], batch: Mapping[str, Tensor], work: Path
) -> Mapping[str, Floats]:
    """Return intermediate values of a file on a batch."""
    arrays = {name: values.numpy() for name, values in batch.items()}
    return next(capture_activations(path, names, iter([arrays]), work)) if names else {}


def _stored_ranges(path: Path, spec: Int8Spec, activations: Mapping[str, Floats]) -> set[str]:
    """Return the names of those values that have a scale of their own in the integer file."""
    model = ir.load(path)
    chosen = layers_to_quantize(model.graph, spec)
    ranges = {name: (float(values.min()), float(values.max())) for name, values in activations.items()}
    quantize_static(model, chosen, ranges, per_channel=spec.per_channel, embeddings=False)
    return {name for name in activations if f"{name}.scale" in model.graph.initializers}


def _distinct_operations(operations: Mapping[str, Operation | None]) -> list[Operation]:
    return list(dict.fromkeys(place for place in operations.values() if place is not None))


def _rounded_weight(
    model: nn.Module, layer_match: LayerMatch, spec: Int8Spec, limit: int
) -> FakeQuantizedWeight:
    if isinstance(layer_match.layer, Table):
        return FakeQuantizedWeight(layer_match.parameters, _table_rounding(layer_match.layer, spec))
    norm = None if layer_match.norm is None else model.get_submodule(layer_match.norm)
    assert norm is None or isinstance(norm, _BatchNorm)
    return FakeQuantizedWeight(
        layer_match.parameters,
        partial(fake_quantize_weights, per_channel=spec.per_channel, limit=limit),
        norm,
    )


def _table_rounding(table: Table, spec: Int8Spec) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    bits = spec.table_bits
    if not spec.per_channel and bits == 8:
        return lambda tables: [fake_quantize_table(rows) for rows in tables]
    block = block_size_for(table.shape[1], MAX_BLOCK_SIZE[bits])
    return lambda tables: [fake_quantize_blocks(rows, bits=bits, block=block) for rows in tables]


def _calibrated_input(layer: Layer) -> ir.Value | None:
    """Return a layer's input if its range is stored; None if it is computed at run time or there is none."""
    return layer.node.inputs[0] if isinstance(layer, Convolution) else calibrated_source(layer)
