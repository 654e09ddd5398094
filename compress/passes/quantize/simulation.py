"""What is rounded while a model trains for its integers: just what the writers of integer graphs will round.

The layers are those of the model's own lowered graph, so `exclude`, fused attention, the patches of a vision
transformer and tokens that are selected early need no rules of their own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.passes.quantize.convolutions import activated
from compress.passes.quantize.layers import Convolution, Layer, Table, layers, split_excluded
from compress.passes.quantize.places import Place, places_of, tokens_read, watch
from compress.passes.quantize.static import convolutions, fixed_source
from compress.passes.quantize.step import schemes_for
from compress.passes.quantize.tables import LARGEST_BLOCK, block_size_for
from compress.profile.pass_specs import QuantizeSpec
from compress.training.rounded_model import RoundedModel, RoundedValue, RoundedWeight
from compress.training.rounding import round_table, round_weights, round_whole_table


def simulate(
    model: nn.Module, graph: ir.Graph, spec: QuantizeSpec, limit: int, batch: Mapping[str, Tensor]
) -> tuple[RoundedModel, dict[str, Any]]:
    """A model with the rounding of `spec` simulated, and what is simulated, for the facts.

    Sums of branches and other values between convolutions that no module of its own makes are left as they are. With
    `scheme: auto` ranges are those of the first scheme that will be measured.

    Args:
        model: float32, on the CPU, in eval mode.
        graph: what it was lowered to.
        limit: the largest integer of a weight.
        batch: an example that shows which modules read what.

    Raises:
        ModelError: `exclude` names nothing, or the scheme does not fit a layer.
    """
    every = list(layers(graph))
    chosen, _ = split_excluded(every, spec.exclude, spec.exclude_kinds)
    scheme = schemes_for(spec, convolutions(chosen))[0]
    wanted = {layer.node for layer in chosen if spec.embeddings or not isinstance(layer, Table)}
    # Those that are left floating are looked for too, so that none of equal weights is taken for another.
    found = places_of(model, every, watch(model, batch))
    places = [place for layer, place in zip(every, found, strict=True) if place and layer.node in wanted]
    unknown = [
        layer.node.name or layer.node.op_type
        for layer, place in zip(every, found, strict=True)
        if not place and layer.node in wanted
    ]
    tokens = tokens_read(graph)
    weights = {place.parameters: _weight(model, place, spec, limit) for place in places}
    values: dict[tuple[str, bool], RoundedValue] = {}
    for place in places:
        running = _has_fixed_range(place.layer, scheme)
        for module in place.reads:
            values[module, False] = RoundedValue(
                module,
                running,
                symmetric=spec.calibration.symmetric,
                tokens=tokens.get(place.layer.node),
            )
            if isinstance(place.layer, Convolution) and _rounded_as_it_is(place.layer):
                made = place.norm or module
                values[made, True] = RoundedValue(
                    made, True, given=True, symmetric=spec.calibration.symmetric
                )
    facts = {
        "weights": len(weights),
        "inputs": sum(not value.given for value in values.values()),
        "outputs": sum(value.given for value in values.values()),
        "ranges": "at run time" if scheme == "dynamic" else "running",
        "not_simulated": unknown,
    }
    return RoundedModel(model, list(weights.values()), list(values.values())), facts


def _weight(model: nn.Module, place: Place, spec: QuantizeSpec, limit: int) -> RoundedWeight:
    if isinstance(place.layer, Table):
        width = place.layer.rows.shape[1]
        blocks = partial(
            round_table,
            bits=spec.table_bits,
            block=block_size_for(width, LARGEST_BLOCK[spec.table_bits]),
        )
        whole = not spec.per_channel and spec.table_bits == 8
        rounding = round_whole_table if whole else blocks
        return RoundedWeight(place.parameters, lambda tables: [rounding(rows) for rows in tables])
    norm = None if place.norm is None else model.get_submodule(place.norm)
    assert norm is None or isinstance(norm, _BatchNorm)
    return RoundedWeight(
        place.parameters, partial(round_weights, per_channel=spec.per_channel, limit=limit), norm
    )


def _has_fixed_range(layer: Layer, scheme: str) -> bool:
    """Whether the range of what a layer reads is known before it runs."""
    return isinstance(layer, Convolution) or (scheme == "static" and fixed_source(layer) is not None)


def _rounded_as_it_is(layer: Convolution) -> bool:
    """Whether what a convolution gives is rounded at once, and not what an activation function leaves of it."""
    output = layer.node.outputs[0]
    return activated(output) is output
