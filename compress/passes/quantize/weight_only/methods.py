"""4-bit weights by one of four methods: which layers' inputs must be known, and what the weight of a layer becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compress.encoding.inputs import Batch
from compress.passes.quantize.embeddings import table_blocks
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, Table, layers_to_quantize
from compress.passes.quantize.scale_folding import groups, scale_channels
from compress.passes.quantize.weight_only.awq import search_scales
from compress.passes.quantize.weight_only.blocks import Blocks, Floats, quantize_blocks
from compress.passes.quantize.weight_only.gptq import feedback_blocks
from compress.passes.quantize.weight_only.hessian import InputMoments, moments_of
from compress.passes.quantize.weight_only.hqq import fit_blocks
from compress.passes.quantize.weight_only.matmul_nbits import BITS, Blocked, BlocksOf, quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec


def quantize_to_four_bits(
    model: ir.Model,
    path: Path,
    spec: WeightOnlySpec,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
) -> None:
    """Replace each layer that is not excluded, by the method of the spec.

    Args:
        model: the graph to change.
        path: the file that it was read from.
        batches: training examples, read by `gptq` and `awq` alone.
        work: where an instrumented graph may lie for a moment.
    """
    chosen = layers_to_quantize(model.graph, spec.exclude, spec.exclude_kinds)
    moments: Mapping[str, InputMoments] = {}
    if spec.method in ("gptq", "awq"):
        moments = moments_of(path, input_names(chosen), batches, work)
    if spec.method == "awq":
        scale_activations(model, chosen, moments, spec.block_size, spec.symmetric)
        # The weights are others now, and so are the inputs.
        chosen, moments = layers_to_quantize(model.graph, spec.exclude, spec.exclude_kinds), {}
    quantize_weights(model, chosen, blocks_by(spec, chosen, moments), embeddings=bool(spec.embeddings))


def input_names(chosen: list[Layer]) -> list[str]:
    """Names of the values that the chosen layers multiply, each once."""
    names = [layer.source.name for layer in chosen if isinstance(layer, Linear | FusedAttention)]
    return list(dict.fromkeys(name for name in names if name))


def blocks_by(spec: WeightOnlySpec, chosen: list[Layer], moments: Mapping[str, InputMoments]) -> BlocksOf:
    """What a weight becomes by the method of the spec. Rows of tables are only read, so no inputs weigh them."""
    size, symmetric = spec.block_size, spec.symmetric
    # By layer, found now: the values between layers get other names as layers are replaced.
    known = {
        layer.node: moments[layer.source.name or ""]
        for layer in chosen
        if moments and isinstance(layer, Linear | FusedAttention)
    }

    def rounded(layer: Blocked, rows: Floats) -> Blocks:
        return quantize_blocks(rows, size, BITS, symmetric)

    def fitted(layer: Blocked, rows: Floats) -> Blocks:
        return fit_blocks(rows, size, BITS, symmetric)

    def fed_back(layer: Blocked, rows: Floats) -> Blocks:
        if isinstance(layer, Table):
            return fitted(layer, rows)
        second = known[layer.node].second
        return feedback_blocks(rows, second, size, BITS, symmetric, activation_order=spec.activation_order)

    methods: Mapping[str, BlocksOf] = {"rtn": rounded, "hqq": fitted, "gptq": fed_back, "awq": rounded}

    def by_kind(layer: Blocked, rows: Floats) -> Blocks:
        if isinstance(layer, Table) and spec.table_bits != BITS:
            return table_blocks(rows, spec.table_bits)
        return methods[spec.method](layer, rows)

    return by_kind


def scale_activations(
    model: ir.Model,
    chosen: list[Layer],
    moments: Mapping[str, InputMoments],
    block_size: int,
    symmetric: bool,
) -> None:
    """Search the scales of each input, and move them into the weights; those of one input share them."""
    searched = []
    for group in groups(chosen):
        rows = np.concatenate([layer.weight.T for layer in group.layers])
        found = moments[group.source.name or ""]
        searched.append((group, search_scales(rows, found, block_size, BITS, symmetric)))
    for group, scales in searched:
        if (scales != 1).any():
            scale_channels(model.graph, group, scales)
