"""A classifier that reads one token needs only that token of whatever works on each token for itself.

The last feed-forward layer of an encoder and the norms around it are applied to every token, then all but the first
are thrown away. Here the selection moves up the graph to the last operator that mixes tokens (attention): exact, and
in a model of two layers it halves the feed-forward arithmetic.
"""

from __future__ import annotations

import onnx_ir as ir

from compress.lowering.graph import attribute, constant, insert_before, replace, scalar

_POINTWISE = frozenset({"Gelu", "Relu", "Tanh", "Erf", "Sigmoid", "Identity", "BiasGelu", "FastGelu"})
_SUMS = frozenset({"Add", "Mul", "Sub", "Div"})
_TOKEN_AXIS = 1


def select_early(model: ir.Model) -> bool:
    """Move the selection of one token (`Gather` of a scalar index on axis 1) as far up as it goes.

    Returns:
        Whether anything moved. Values between the old and the new place lose their token axis.
    """
    graph = model.graph
    select = next((node for node in graph if _selects_token(node)), None)
    if select is None or select.inputs[0] is None:
        return False
    narrow = _narrow_nodes(graph, select)
    if not narrow:
        return False
    chosen: dict[int, ir.Value] = {}
    for node in narrow:
        if node.op_type == "LayerNormalization":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
        for output in node.outputs:
            output.shape = _without_tokens(output)
        for index, value in enumerate(node.inputs):
            if value is None or constant(value) is not None or value.producer() in narrow:
                continue
            if id(value) not in chosen:
                name = f"{value.name}.selected"
                early = ir.node("Gather", [value, select.inputs[1]], {"axis": _TOKEN_AXIS}, name=name)
                chosen[id(value)] = insert_before(graph, node, early)
                chosen[id(value)].shape = _without_tokens(value)
            node.replace_input_with(index, chosen[id(value)])
    replace(select.outputs[0], select.inputs[0])
    graph.remove(select, safe=True)
    return True


def _selects_token(node: ir.Node) -> bool:
    """Whether a node takes one token: (batch, sequence, hidden) -> (batch, hidden)."""
    index = constant(node.inputs[1]) if node.op_type == "Gather" else None
    return (
        index is not None
        and index.ndim == 0
        and attribute(node, "axis", 0) == _TOKEN_AXIS
        and constant(node.inputs[0]) is None
        and node.inputs[0].producer() is not None
    )


def _narrow_nodes(graph: ir.Graph, select: ir.Node) -> list[ir.Node]:
    """Nodes that treat tokens apart and whose every reader is the selection or such a node, in graph order."""
    found = {select}
    for node in reversed(list(graph)):
        readers = [use.node for output in node.outputs for use in output.uses()]
        is_output = any(output.is_graph_output() for output in node.outputs)
        if (
            readers
            and not is_output
            and all(reader in found for reader in readers)
            and _treats_tokens_apart(node)
        ):
            found.add(node)
    return [node for node in graph if node in found and node is not select]


def _treats_tokens_apart(node: ir.Node) -> bool:
    """Whether output token i depends on input token i only, also when the token axis is gone."""
    first, *rest = node.inputs
    if node.op_type in _POINTWISE:
        return all(_is_vector(value) for value in rest)
    if node.op_type == "MatMul":
        weight = constant(rest[0])
        return weight is not None and weight.ndim == 2 and constant(first) is None
    if node.op_type == "LayerNormalization":
        return attribute(node, "axis", -1) in (-1, 2) and len(node.outputs) == 1
    # Values without a constant side are residual sums: both sides have the full shape.
    return node.op_type in _SUMS and all(
        (constant(value) is None and _has_tokens(value)) or _is_vector(value) for value in node.inputs
    )


def _without_tokens(value: ir.Value) -> ir.Shape | None:
    """The shape of a value without its token axis; None where it is not known."""
    if value.shape is None:
        return None
    return ir.Shape([axis for place, axis in enumerate(value.shape) if place != _TOKEN_AXIS])


def _has_tokens(value: ir.Value | None) -> bool:
    """Whether a value is known to have the axes (batch, sequence, hidden)."""
    return value is not None and value.shape is not None and len(value.shape) == 3


def _is_vector(value: ir.Value | None) -> bool:
    """Whether a constant broadcasts over tokens the same with and without their axis."""
    array = constant(value)
    return scalar(value) is not None or (array is not None and array.ndim <= 1)
