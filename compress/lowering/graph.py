"""Helpers to inspect and change an ONNX graph."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

MS_DOMAIN = "com.microsoft"
"""Domain of onnxruntime's own operators."""

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of a constant value; None for any other value."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of a constant value without reading its data; None for any other value."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return tuple(map(int, value.const_value.shape.numpy()))


def constant_of(value: ir.Value | None) -> Array:
    """Return the array of a value that is known to be a constant."""
    found = constant(value)
    assert found is not None
    return found


def inputs_of(node: ir.Node, *indices: int) -> list[ir.Value]:
    """Return the inputs of a node at these indices, which are known to be present."""
    found = [node.inputs[index] for index in indices]
    return [cast(ir.Value, value) for value in found]


def scalar(value: ir.Value | None) -> float | None:
    """Return the number in a constant of one element; None for any other value."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def producer_of_type(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that produces `value`, if it is of one of these operator types."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return the value of an attribute of a node."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add a constant to the graph; a name that is taken gets a number appended."""
    unique_name = _unique_name(graph, name)
    tensor = ir.tensor(np.asarray(array, order="C"), name=unique_name)
    value = ir.Value(
        name=unique_name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def insert_before(graph: ir.Graph, anchor: ir.Node, node: ir.Node) -> ir.Value:
    """Insert `node` before `anchor`; returns its first output, named after the node."""
    for index, output in enumerate(node.outputs):
        if output.name is None:
            output.name = _unique_name(graph, f"{node.name}.{index}" if index else node.name or node.op_type)
    graph.insert_before(anchor, node)
    return node.outputs[0]


def _unique_name(graph: ir.Graph, name: str) -> str:
    """Return `name`, with a number appended if a value of the graph or of its subgraphs has that name."""
    names = {
        value.name
        for part in (graph, *graph.subgraphs())
        for value in (
            *part.inputs,
            *part.initializers.values(),
            *(output for node in part for output in node.outputs),
        )
    }
    unique, count = name, 1
    while unique in names:
        unique, count = f"{name}.{count}", count + 1
    return unique


def unfuse_attention(graph: ir.Graph, node: ir.Node, product: ir.Value, mask: ir.Value | None) -> None:
    """Replace a fused attention operator by `MultiHeadAttention`.

    Args:
        product: output of the fused projections, (batch, sequence, 3 * width), which is split in three.
        mask: int32 (batch, sequence); None if nothing is masked.
    """
    name = node.name
    split = ir.node("Split", [product], {"axis": -1, "num_outputs": 3}, num_outputs=3, name=f"{name}.cut")
    insert_before(graph, node, split)
    attributes = [node.attributes[key] for key in ("num_heads", "scale") if key in node.attributes]
    attention = ir.Node(
        MS_DOMAIN, "MultiHeadAttention", [*split.outputs, None, mask], attributes, name=f"{name}.heads"
    )
    replace_uses(node.outputs[0], insert_before(graph, node, attention))


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Let all consumers of `old` read `new`; a graph output keeps its name."""
    graph = old.graph
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if graph is not None and any(output is new for output in graph.outputs):
        name, old.name = old.name, f"{old.name}.replaced"
        new.name, new.shape, new.type = name, old.shape, old.type
    elif new.shape is None:
        new.shape = old.shape


def tidy(model: ir.Model) -> None:
    """Remove unused nodes and constants, exporter metadata, and the shapes of inner values."""
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    interface_ids = {id(value) for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in interface_ids:
                value.shape, value.type = None, None
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    domains = {node.domain for node in graph}
    if MS_DOMAIN in domains:
        model.opset_imports[MS_DOMAIN] = 1
    for domain in [domain for domain in model.opset_imports if domain and domain not in domains]:
        del model.opset_imports[domain]
