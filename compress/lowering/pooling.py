"""Replacing means over height and width by global pooling, whose kernel supports the layouts of convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import add_initializer, attribute, constant, insert_before, replace_uses

_SPATIAL = {2, 3}


def mean_to_global_pool(model: ir.Model) -> int:
    """Replace each ReduceMean over both spatial axes of (n, c, h, w) by GlobalAveragePool; returns how many."""
    graph = model.graph
    replaced = 0
    for node in list(graph):
        if node.op_type != "ReduceMean" or not _is_spatial(node):
            continue
        source, mean = node.inputs[0], node.outputs[0]
        pooled = insert_before(
            graph, node, ir.node("GlobalAveragePool", [source], name=f"{mean.name}.pooled")
        )
        if not attribute(node, "keepdims", 1):
            axes = add_initializer(graph, f"{mean.name}.axes", np.array(sorted(_SPATIAL), np.int64))
            flat = ir.node("Squeeze", [pooled, axes], name=f"{mean.name}.flat")
            pooled = insert_before(graph, node, flat)
        replace_uses(mean, pooled)
        replaced += 1
    return replaced


def _is_spatial(node: ir.Node) -> bool:
    source = node.inputs[0]
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or len(source.shape) != 4 or axes is None:
        return False
    return {int(axis) % 4 for axis in axes.reshape(-1)} == _SPATIAL
