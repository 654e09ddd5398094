"""Quantize weights in blocks by one of the methods `rtn`, `hqq`, `gptq` or `awq`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.encoding.inputs import Batch
from compress.lowering.graph import tidy
from compress.passes.quantize.embeddings import table_blocks
from compress.passes.quantize.layers import (
    Layer,
    MatMulLayer,
    Table,
    group_by_source,
    input_names,
    layers_to_quantize,
    matching_nodes,
    weighted_layers,
)
from compress.passes.quantize.scale_folding import average_tied, scale_channels, source_groups, tied_channels
from compress.passes.quantize.weight_only.awq import search_scales
from compress.passes.quantize.weight_only.blocks import Blocks, Floats, quantize_blocks
from compress.passes.quantize.weight_only.gptq import gptq_blocks, relative_error
from compress.passes.quantize.weight_only.hessian import InputMoments, moments_of, second_moment
from compress.passes.quantize.weight_only.hqq import fit_blocks
from compress.passes.quantize.weight_only.matmul_nbits import BlockedLayer, write_blocks
from compress.passes.quantize.weight_only.sequential import SequentialActivations
from compress.passes.quantize.weight_only.spec import WeightOnlySpec

MomentMatrix = NDArray[np.float64]


def quantize_weights(
    model: ir.Model,
    path: Path,
    spec: WeightOnlySpec,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
) -> list[RoundingResult]:
    """Replace each layer that is not excluded, by the spec's method; return the rounding error of each weight.

    Constants shared by several layers, and tables, come first, with inputs from the float model; then one layer after
    another, with inputs from the already quantized layers before it.

    Args:
        model: the graph, changed in place.
        path: the file that it was loaded from.
        batches: training examples, read by `gptq` and `awq` only.
        work: folder for temporary parts of the graph.

    Raises:
        ModelError: see `layers_to_quantize`, `matching_nodes` and `write_blocks`.
    """
    graph = model.graph
    included = layers_to_quantize(graph, spec)
    selected = [
        layer
        for layer in included
        if isinstance(layer, MatMulLayer) or (isinstance(layer, Table) and spec.embeddings)
    ]
    nodes = [layer.node for layer in weighted_layers(graph)]
    method = _Method(spec, matching_nodes(nodes, spec.eight_bits, "quantize.eight_bits"))
    if spec.method == "awq":
        method.scale_activations(graph, selected, moments_of(path, input_names(selected), batches, work))
    results: list[RoundingResult] = []
    shared, unshared = group_by_constant(selected)
    moments: Mapping[str, InputMoments] = {}
    if spec.method == "gptq":
        names = input_names(
            [layer for group in shared if not method.is_lookup_only(group) for layer in group]
        )
        moments = moments_of(path, names, batches, work) if names else {}
    for group in shared:
        seen = [moments[name].second for name in input_names(group) if name in moments]
        moment_matrix = sum(seen[1:], seen[0]) if seen else None
        results.append(method.write(graph, group, moment_matrix))
    examples = SequentialActivations(graph, batches, work) if spec.method == "gptq" else None
    for readers in group_by_source(unshared).values():
        # The current input of the first layer: fused attention has been decomposed meanwhile.
        values = examples.values(readers[0].source, readers[0].node) if examples is not None else None
        moment_matrix = None if values is None else second_moment(values)
        results += [method.write(graph, [layer], moment_matrix) for layer in readers]
    tidy(model)
    return results


class RoundingResult(NamedTuple):
    """A block-quantized weight: name of its first layer, bits, number of values, and relative root-mean-square error.

    The error is that of the products on the observed inputs, if any, else of the weight values.
    """

    layer: str
    bits: int
    weights: int
    error: float


@dataclass(frozen=True)
class _Method:
    """How a spec quantizes constants; the nodes in `eight_bit_nodes` get 8 bits."""

    spec: WeightOnlySpec
    eight_bit_nodes: Collection[ir.Node]

    def bits(self, group: Sequence[BlockedLayer]) -> int:
        """Return the bits of a constant shared by these layers."""
        if any(layer.node in self.eight_bit_nodes for layer in group):
            return 8
        return self.spec.table_bits if isinstance(group[0], Table) else self.spec.bits

    def is_lookup_only(self, group: Sequence[BlockedLayer]) -> bool:
        """Whether it is a table with other bits than products, which is always rounded to nearest."""
        return isinstance(group[0], Table) and self.bits(group) != self.spec.bits

    def write(
        self, graph: ir.Graph, group: Sequence[BlockedLayer], moment_matrix: MomentMatrix | None
    ) -> RoundingResult:
        """Replace the layers that share a constant; see `blocks`."""
        first = group[0]
        name, rows = first.node.name or "", _rows(first)
        blocks = self.blocks(group, moment_matrix)
        error = relative_error(
            rows, blocks.dequantized(), None if self.is_lookup_only(group) else moment_matrix
        )
        write_blocks(graph, group, blocks)
        return RoundingResult(name, blocks.bits, rows.size, error)

    def blocks(self, group: Sequence[BlockedLayer], moment_matrix: MomentMatrix | None) -> Blocks:
        """Quantize a constant in blocks.

        Args:
            group: the layers that share it.
            moment_matrix: second moments of their inputs, for `gptq`; None: no layer multiplies by it.
        """
        spec, first, bits = self.spec, group[0], self.bits(group)
        rows = _rows(first)
        if self.is_lookup_only(group):
            return table_blocks(rows, bits)
        grid = spec.block_size_for(rows.shape[1]), bits, spec.symmetric
        if spec.method == "gptq" and moment_matrix is not None:
            return gptq_blocks(rows, moment_matrix, *grid, activation_order=spec.activation_order)
        return (quantize_blocks if spec.method in ("rtn", "awq") else fit_blocks)(rows, *grid)

    def scale_activations(
        self, graph: ir.Graph, selected: Sequence[Layer], moments: Mapping[str, InputMoments]
    ) -> None:
        """Search AWQ scales of each input and fold them into the weights; layers with the same input share them."""
        scales_by_group = []
        for group in source_groups(selected):
            rows = np.concatenate([layer.weight.T for layer in group.layers])
            group_moments, ties = moments[group.source.name or ""], tied_channels(group)
            if ties is not None:
                group_moments = InputMoments(group_moments.second, average_tied(group_moments.mean_abs, ties))
            bits = self.bits(group.layers)
            block = self.spec.block_size_for(rows.shape[1])
            scales_by_group.append(
                (group, search_scales(rows, group_moments, block, bits, self.spec.symmetric))
            )
        for group, scales in scales_by_group:
            if (scales != 1).any():
                scale_channels(graph, group, scales)


def group_by_constant(selected: Sequence[BlockedLayer]) -> tuple[list[list[BlockedLayer]], list[MatMulLayer]]:
    """Split into groups that share a constant, every table included, and products with a constant of their own."""
    by_weight: dict[tuple[ir.Value, bool], list[BlockedLayer]] = {}
    for layer in selected:
        by_weight.setdefault((layer.weight_value, isinstance(layer, Table) or layer.transposed), []).append(
            layer
        )
    single = [one[0] for one in by_weight.values() if len(one) == 1]
    alone = [layer for layer in single if not isinstance(layer, Table)]
    return [one for one in by_weight.values() if len(one) > 1 or isinstance(one[0], Table)], alone


def _rows(layer: BlockedLayer) -> Floats:
    """Return the rows that are divided into blocks: those of a table, or one per output of a product."""
    return layer.weight if isinstance(layer, Table) else layer.weight.T
