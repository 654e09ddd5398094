"""Computing only the tokens that are read, where operators work on each token separately.

The last feed-forward layer of an encoder and the norms around it are applied to every token, then all but the first
(or the first two: class and distillation token) are discarded. Here the selection moves up the graph to the last
operator that mixes tokens (attention): the result is exact, and in a model of two layers it halves the feed-forward
arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import (
    add_initializer,
    attribute,
    constant,
    inputs_of,
    insert_before,
    replace_uses,
    scalar,
)

_POINTWISE = frozenset({"Gelu", "Relu", "Tanh", "Erf", "Sigmoid", "Identity", "BiasGelu", "FastGelu"})
_ELEMENTWISE = frozenset({"Add", "Mul", "Sub", "Div"})
_TOKEN_AXIS = 1


def select_early(model: ir.Model) -> bool:
    """Move the selection of tokens (`Gather` of scalar indices on axis 1) up the graph as far as possible.

    Returns:
        Whether anything moved. If one token is read, values between the old and the new place lose their token axis;
        if several are, the axis has their number.
    """
    graph = model.graph
    by_source: dict[ir.Value | None, list[ir.Node]] = {}
    for node in graph:
        if _selects_token(node):
            by_source.setdefault(node.inputs[0], []).append(node)
    names: set[str] = set()
    moved = [_move_up(graph, selections, names) for selections in by_source.values()]
    return any(moved)


def _move_up(graph: ir.Graph, selections: list[ir.Node], names: set[str]) -> bool:
    """Move all selections from one value; returns whether they moved. `names` collects the names of all new nodes."""
    movable = _tokenwise_nodes(graph, set(selections))
    if not movable:
        return False
    select = selections[0] if len(selections) == 1 else _joint_selection(graph, selections)
    indices = constant(select.inputs[1])
    is_single = indices is not None and indices.ndim == 0
    chosen: dict[int, ir.Value] = {}
    for node in movable:
        if node.op_type == "LayerNormalization":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
        for output in node.outputs:
            output.shape = _shape_without_tokens(output) if is_single else None
        for index, value in enumerate(node.inputs):
            if value is None or constant(value) is not None or value.producer() in movable:
                continue
            if id(value) not in chosen:
                name = f"{value.name}.selected"
                if name in names:
                    name = f"{value.name}.{len(names)}.selected"
                names.add(name)
                gather = ir.node("Gather", [value, select.inputs[1]], {"axis": _TOKEN_AXIS}, name=name)
                chosen[id(value)] = insert_before(graph, node, gather)
                chosen[id(value)].shape = _shape_without_tokens(value) if is_single else None
            node.replace_input_with(index, chosen[id(value)])
    replace_uses(select.outputs[0], *inputs_of(select, 0))
    graph.remove(select, safe=True)
    return True


def _joint_selection(graph: ir.Graph, selections: list[ir.Node]) -> ir.Node:
    """Insert one `Gather` of all the selected tokens, which keeps the token axis, and let the selections read it."""
    (source,) = inputs_of(selections[0], 0)
    tokens = np.array([int(scalar(node.inputs[1]) or 0) for node in selections], np.int64)
    indices = add_initializer(graph, f"{source.name}.tokens", tokens)
    select = ir.node("Gather", [source, indices], {"axis": _TOKEN_AXIS}, name=f"{source.name}.together")
    selected = insert_before(graph, selections[0], select)
    for position, node in enumerate(selections):
        node.replace_input_with(0, selected)
        node.replace_input_with(
            1, add_initializer(graph, f"{source.name}.token", np.array(position, np.int64))
        )
    return select


def _selects_token(node: ir.Node) -> bool:
    """Whether a node selects one token: (batch, sequence, hidden) -> (batch, hidden)."""
    index = constant(node.inputs[1]) if node.op_type == "Gather" else None
    return (
        index is not None
        and index.ndim == 0
        and attribute(node, "axis", 0) == _TOKEN_AXIS
        and constant(node.inputs[0]) is None
        and node.inputs[0].producer() is not None
    )


def _tokenwise_nodes(graph: ir.Graph, selections: set[ir.Node]) -> list[ir.Node]:
    """Return the nodes that process tokens separately and are only read by selections or such nodes, in graph order."""
    found = set(selections)
    for node in reversed(list(graph)):
        consumers = [use.node for output in node.outputs for use in output.uses()]
        is_output = any(output.is_graph_output() for output in node.outputs)
        if (
            consumers
            and not is_output
            and all(consumer in found for consumer in consumers)
            and _is_tokenwise(node)
        ):
            found.add(node)
    return [node for node in graph if node in found and node not in selections]


def _is_tokenwise(node: ir.Node) -> bool:
    """Whether output token i depends only on input token i, also without the token axis."""
    first, *rest = node.inputs
    if node.op_type in _POINTWISE:
        return all(_broadcasts_over_tokens(value) for value in rest)
    if node.op_type == "MatMul":
        weight = constant(rest[0])
        return weight is not None and weight.ndim == 2 and constant(first) is None
    if node.op_type == "LayerNormalization":
        return attribute(node, "axis", -1) in (-1, 2) and len(node.outputs) == 1
    # Inputs that are not constants are residual sums: both sides have the full shape.
    return node.op_type in _ELEMENTWISE and all(
        (constant(value) is None and _has_tokens(value)) or _broadcasts_over_tokens(value)
        for value in node.inputs
    )


def _shape_without_tokens(value: ir.Value) -> ir.Shape | None:
    """Return the shape of a value without its token axis; None if the shape is not known."""
    if value.shape is None:
        return None
    return ir.Shape([axis for index, axis in enumerate(value.shape) if index != _TOKEN_AXIS])


def _has_tokens(value: ir.Value | None) -> bool:
    """Whether a value is known to have the axes (batch, sequence, hidden)."""
    return value is not None and value.shape is not None and len(value.shape) == 3


def _broadcasts_over_tokens(value: ir.Value | None) -> bool:
    """Whether a constant broadcasts over tokens in the same way with and without the token axis."""
    array = constant(value)
    return scalar(value) is not None or (array is not None and array.ndim <= 1)
