"""Folding transposes of constants that the exporter leaves to run time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import add_initializer, attribute, constant, replace_uses


def transpose_constants(model: ir.Model) -> int:
    """Transpose constants ahead of time instead of in a node; returns how many nodes are removed.

    The exporter transposes the weight of a linear layer itself, but not one that several layers share, such as the
    first factor of query, key and value. Only weights that are constants can be quantized.
    """
    graph = model.graph
    transposed: dict[tuple[int, tuple[int, ...]], ir.Value] = {}
    spared = 0
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        array = constant(source)
        if source is None or array is None:
            continue
        order = tuple(attribute(node, "perm", range(array.ndim)[::-1]))
        if (id(source), order) not in transposed:
            transposed[id(source), order] = add_initializer(
                graph, f"{source.name}.transposed", np.transpose(array, order)
            )
        replace_uses(node.outputs[0], transposed[id(source), order])
        spared += 1
    return spared
