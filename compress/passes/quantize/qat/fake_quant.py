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

from compress.passes.quantize.calibration.activation_capture import Floats, observe
from compress.passes.quantize.embeddings import LARGEST_BLOCK, block_size_for
from compress.passes.quantize.int8.convolutions import ranged_between
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import convolutions, fixed_source, quantize_static, ranged_values
from compress.passes.quantize.layers import (
    Convolution,
    Layer,
    Table,
    layers,
    layers_to_quantize,
)
from compress.passes.quantize.schemes import schemes_for
from compress.passes.quantize.weight_matching import Place, places_of, tokens_read, watch
from compress.training.rounding.integers import round_table, round_weights, round_whole_table
from compress.training.rounding.operations import Operation
from compress.training.rounding.rounded_model import FakeQuantizedModel, RoundedValue, RoundedWeight


def simulate(
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
    every = list(layers(graph))
    chosen = layers_to_quantize(graph, spec)
    scheme = schemes_for(spec, convolutions(chosen))[0]
    wanted = {layer.node for layer in chosen if spec.embeddings or not isinstance(layer, Table)}
    seen = watch(model, batch)
    # Floating layers are matched too, so that none of several equal weights is mistaken for another.
    found = list(zip(every, places_of(model, every, seen), strict=True))
    places = [place for layer, place in found if place is not None and layer.node in wanted]
    unknown = [
        layer.node.name or layer.node.op_type
        for layer, place in found
        if place is None and layer.node in wanted
    ]
    weights = {place.parameters: _weight(model, place, spec, limit) for place in places}
    values: list[RoundedValue] = []
    ranged: set[str] = set()
    if scheme == "static":
        known = _values(path, ranged_values(graph, chosen), batch, work)
        ranged = _stored_ranges(path, spec, known)
        between = [name for name in ranged_between(graph, convolutions(chosen)) if name in ranged]
        made = {name: seen.maker(known[name]) for name in between}
        values += [RoundedValue(place, True, symmetric=spec.calibration.symmetric) for place in _each(made)]
        # A value rounded by its producer need not be rounded by its readers.
        ranged -= {name for name, place in made.items() if place is not None}
    values += _read(places, ranged, scheme, spec, tokens_read(graph))
    facts = {
        "weights": len(weights),
        "inputs": sum(not isinstance(value.place, Operation) for value in values),
        "between": sum(isinstance(value.place, Operation) for value in values),
        "ranges": "at run time" if scheme == "dynamic" else "running",
        "not_simulated": unknown,
    }
    return FakeQuantizedModel(model, list(weights.values()), values), facts


def _read(
    places: Sequence[Place],
    ranged: set[str],
    scheme: str,
    spec: Int8Spec,
    tokens: Mapping[ir.Node, tuple[int, ...]],
) -> list[RoundedValue]:
    """Round module inputs: with stored ranges for the names in `ranged`, else with ranges computed at run time."""
    found: dict[str, RoundedValue] = {}
    for place in places:
        source = _fixed(place.layer) if scheme == "static" else None
        if source is not None and source.name not in ranged:
            continue
        for module in place.reads:
            found[module] = RoundedValue(
                module, source is not None, spec.calibration.symmetric, tokens.get(place.layer.node)
            )
    return list(found.values())


def _values(
    path: Path, names: Sequence[str], batch: Mapping[str, Tensor], work: Path
) -> Mapping[str, Floats]:
    """Return intermediate values of a file on a batch."""
    arrays = {name: values.numpy() for name, values in batch.items()}
    return next(observe(path, names, iter([arrays]), work)) if names else {}


def _stored_ranges(path: Path, spec: Int8Spec, known: Mapping[str, Floats]) -> set[str]:
    """Return the names of those values that have a scale of their own in the integer file."""
    model = ir.load(path)
    chosen = layers_to_quantize(model.graph, spec)
    ranges = {name: (float(values.min()), float(values.max())) for name, values in known.items()}
    quantize_static(model, chosen, ranges, per_channel=spec.per_channel, embeddings=False)
    return {name for name in known if f"{name}.scale" in model.graph.initializers}


def _each(made: Mapping[str, Operation | None]) -> list[Operation]:
    return list(dict.fromkeys(place for place in made.values() if place is not None))


def _weight(model: nn.Module, place: Place, spec: Int8Spec, limit: int) -> RoundedWeight:
    if isinstance(place.layer, Table):
        return RoundedWeight(place.parameters, _table_rounding(place.layer, spec))
    norm = None if place.norm is None else model.get_submodule(place.norm)
    assert norm is None or isinstance(norm, _BatchNorm)
    return RoundedWeight(
        place.parameters, partial(round_weights, per_channel=spec.per_channel, limit=limit), norm
    )


def _table_rounding(table: Table, spec: Int8Spec) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    bits = spec.table_bits
    if not spec.per_channel and bits == 8:
        return lambda tables: [round_whole_table(rows) for rows in tables]
    block = block_size_for(table.shape[1], LARGEST_BLOCK[bits])
    return lambda tables: [round_table(rows, bits=bits, block=block) for rows in tables]


def _fixed(layer: Layer) -> ir.Value | None:
    """Return a layer's input if its range is stored; None if it is computed at run time or there is none."""
    return layer.node.inputs[0] if isinstance(layer, Convolution) else fixed_source(layer)
