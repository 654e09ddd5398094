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
    by_source,
    input_names,
    layers,
    layers_to_quantize,
    nodes_named,
)
from compress.passes.quantize.scale_folding import averaged, groups, scale_channels, tied_channels
from compress.passes.quantize.weight_only.awq import search_scales
from compress.passes.quantize.weight_only.blocks import Blocks, Floats, quantize_blocks
from compress.passes.quantize.weight_only.gptq import feedback_blocks, relative_error
from compress.passes.quantize.weight_only.hessian import InputMoments, moments_of, second_moment
from compress.passes.quantize.weight_only.hqq import fit_blocks
from compress.passes.quantize.weight_only.matmul_nbits import Blocked, write_blocks
from compress.passes.quantize.weight_only.sequential import Sequential
from compress.passes.quantize.weight_only.spec import WeightOnlySpec

Second = NDArray[np.float64]


def quantize_weights(
    model: ir.Model,
    path: Path,
    spec: WeightOnlySpec,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
) -> list[Rounded]:
    """Replace each layer that is not excluded, by the spec's method; return the rounding error of each weight.

    Constants shared by several layers, and tables, come first, with inputs from the float model; then one layer after
    another, with inputs from the already quantized layers before it.

    Args:
        model: the graph, changed in place.
        path: the file that it was loaded from.
        batches: training examples, read by `gptq` and `awq` only.
        work: folder for temporary parts of the graph.

    Raises:
        ModelError: see `layers_to_quantize`, `nodes_named` and `write_blocks`.
    """
    graph = model.graph
    kept = layers_to_quantize(graph, spec)
    chosen = [
        layer
        for layer in kept
        if isinstance(layer, MatMulLayer) or (isinstance(layer, Table) and spec.embeddings)
    ]
    nodes = [layer.node for layer in layers(graph)]
    method = _Method(spec, nodes_named(nodes, spec.eight_bits, "quantize.eight_bits"))
    if spec.method == "awq":
        method.scale_activations(graph, chosen, moments_of(path, input_names(chosen), batches, work))
    done: list[Rounded] = []
    shared, alone = by_constant(chosen)
    moments: Mapping[str, InputMoments] = {}
    if spec.method == "gptq":
        names = input_names([layer for sharing in shared if not method.is_read(sharing) for layer in sharing])
        moments = moments_of(path, names, batches, work) if names else {}
    for sharing in shared:
        seen = [moments[name].second for name in input_names(sharing) if name in moments]
        second = sum(seen[1:], seen[0]) if seen else None
        done.append(method.write(graph, sharing, second))
    examples = Sequential(graph, batches, work) if spec.method == "gptq" else None
    for readers in by_source(alone).values():
        # The current input of the first layer: fused attention has been decomposed meanwhile.
        values = examples.values(readers[0].source, readers[0].node) if examples is not None else None
        second = None if values is None else second_moment(values)
        done += [method.write(graph, [layer], second) for layer in readers]
    tidy(model)
    return done


class Rounded(NamedTuple):
    """A block-quantized weight: name of its first layer, bits, number of values, and relative root-mean-square error.

    The error is that of the products on the observed inputs, if any, else of the weight values.
    """

    layer: str
    bits: int
    weights: int
    error: float


@dataclass(frozen=True)
class _Method:
    """How a spec quantizes constants; the nodes in `eight` get 8 bits."""

    spec: WeightOnlySpec
    eight: Collection[ir.Node]

    def bits(self, sharing: Sequence[Blocked]) -> int:
        """Return the bits of a constant shared by these layers."""
        if any(layer.node in self.eight for layer in sharing):
            return 8
        return self.spec.table_bits if isinstance(sharing[0], Table) else self.spec.bits

    def is_read(self, sharing: Sequence[Blocked]) -> bool:
        """Whether it is a table with other bits than products, which is always rounded to nearest."""
        return isinstance(sharing[0], Table) and self.bits(sharing) != self.spec.bits

    def write(self, graph: ir.Graph, sharing: Sequence[Blocked], second: Second | None) -> Rounded:
        """Replace the layers that share a constant; see `blocks`."""
        first = sharing[0]
        name, rows = first.node.name or "", _rows(first)
        blocks = self.blocks(sharing, second)
        error = relative_error(rows, blocks.dequantized(), None if self.is_read(sharing) else second)
        write_blocks(graph, sharing, blocks)
        return Rounded(name, blocks.bits, rows.size, error)

    def blocks(self, sharing: Sequence[Blocked], second: Second | None) -> Blocks:
        """Quantize a constant in blocks.

        Args:
            sharing: the layers that share it.
            second: second moments of their inputs, for `gptq`; None: no layer multiplies by it.
        """
        spec, first, bits = self.spec, sharing[0], self.bits(sharing)
        rows = _rows(first)
        if self.is_read(sharing):
            return table_blocks(rows, bits)
        grid = spec.block_of(rows.shape[1]), bits, spec.symmetric
        if spec.method == "gptq" and second is not None:
            return feedback_blocks(rows, second, *grid, activation_order=spec.activation_order)
        return (quantize_blocks if spec.method in ("rtn", "awq") else fit_blocks)(rows, *grid)

    def scale_activations(
        self, graph: ir.Graph, chosen: Sequence[Layer], moments: Mapping[str, InputMoments]
    ) -> None:
        """Search AWQ scales of each input and fold them into the weights; layers with the same input share them."""
        searched = []
        for group in groups(chosen):
            rows = np.concatenate([layer.weight.T for layer in group.layers])
            found, ties = moments[group.source.name or ""], tied_channels(group)
            if ties is not None:
                found = InputMoments(found.second, averaged(found.size, ties))
            bits = self.bits(group.layers)
            block = self.spec.block_of(rows.shape[1])
            searched.append((group, search_scales(rows, found, block, bits, self.spec.symmetric)))
        for group, scales in searched:
            if (scales != 1).any():
                scale_channels(graph, group, scales)


def by_constant(chosen: Sequence[Blocked]) -> tuple[list[list[Blocked]], list[MatMulLayer]]:
    """Split into groups that share a constant, every table included, and products with a constant of their own."""
    found: dict[tuple[ir.Value, bool], list[Blocked]] = {}
    for layer in chosen:
        found.setdefault((layer.weight_value, isinstance(layer, Table) or layer.transposed), []).append(layer)
    single = [one[0] for one in found.values() if len(one) == 1]
    alone = [layer for layer in single if not isinstance(layer, Table)]
    return [one for one in found.values() if len(one) > 1 or isinstance(one[0], Table)], alone


def _rows(layer: Blocked) -> Floats:
    """Return the rows that are divided into blocks: those of a table, or one per output of a product."""
    return layer.weight if isinstance(layer, Table) else layer.weight.T
