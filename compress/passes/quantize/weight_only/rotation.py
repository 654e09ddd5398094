"""Rotate the residual stream of a decoder without changing its outputs (QuaRot).

Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024 (arXiv:2404.00456). RMSNorm commutes with
a rotation once its gain is folded into the following products, so weights that write to the residual stream can be
rotated one way and those that read it the other way. This spreads outliers of single channels over all channels. The
token embeddings, and a head tied to them, stay unchanged: two small products rotate between them and the stream.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.lowering.graph import add_initializer, constant, constant_of, inputs_of, insert_before, scalar

ROTATIONS = ("rotation", "rotation_back")
"""Names of the products that rotate the embeddings into the stream and back before the head; they stay in float."""

_OF_SUM = "SkipSimplifiedLayerNormalization"
_NORMS = {"RMSNormalization": 1, _OF_SUM: 2}
"""Norms that commute with a rotation, and the input index of their gain."""
_Turn = NDArray[np.float64]


def rotate(graph: ir.Graph) -> None:
    """Rotate the residual stream of a decoder by a random orthogonal matrix, in place.

    Raises:
        ModelError: an operator that does not commute with the rotation reads or writes the stream.
    """
    words = next((node for node in graph if node.op_type == "Gather" and node.name == "words"), None)
    if words is None:
        raise _sees("it is not a decoder exported by compress")
    turn = rotation(constant_of(inputs_of(words, 0)[0]).shape[1], seed=0)
    stream, following = words.outputs[0], _next(graph, words)
    readers = list(stream.uses())
    entered = _product(graph, following, ROTATIONS[0], stream, turn)
    for use in readers:
        use.node.replace_input_with(use.idx, entered)
    _pass_on(graph, entered, turn)


def rotation(width: int, seed: int) -> _Turn:
    """Return a random orthogonal matrix, float64 (width, width)."""
    turn, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    # These signs make the distribution uniform (Haar measure).
    signed: _Turn = turn * np.sign(np.diagonal(upper))
    return signed


def _pass_on(graph: ir.Graph, stream: ir.Value, turn: _Turn) -> None:
    """Rotate all readers and writers of the stream, starting at its first value."""
    while True:
        following: list[ir.Value] = []
        for use in list(stream.uses()):
            node = use.node
            if node.op_type in _NORMS:
                _fold(graph, node, turn)
            elif node.op_type != "Mul" or scalar(node.inputs[1 - use.idx]) is None:
                raise _sees(f"a {node.op_type} reads the residual stream")
            if node.op_type == _OF_SUM:
                _turn_result(node.inputs[0], turn)
                following.append(node.outputs[3])
            elif node.op_type == "Mul":
                # Scaled embeddings: a scalar commutes with the rotation.
                following.append(node.outputs[0])
        if not following:
            return
        (stream,) = following


def _fold(graph: ir.Graph, norm: ir.Node, turn: _Turn) -> None:
    """Fold the gain of a norm and the inverse rotation into the readers of the norm."""
    place = _NORMS[norm.op_type]
    gain = constant_of(*inputs_of(norm, place)).astype(np.float64)
    norm.replace_input_with(
        place, add_initializer(graph, f"{norm.name}.ones", np.ones(len(gain), np.float32))
    )
    back = turn.T * gain
    for use in list(norm.outputs[0].uses()):
        reader = use.node
        if reader.op_type == "MatMul" and use.idx == 0 and constant(reader.inputs[1]) is not None:
            _set(reader, 1, back @ constant_of(*inputs_of(reader, 1)))
        elif reader.op_type == "GatherND":
            chosen = reader.outputs[0]
            behind = list(chosen.uses())
            turned = _product(graph, _next(graph, reader), ROTATIONS[1], chosen, back)
            for one in behind:
                one.node.replace_input_with(one.idx, turned)
        else:
            raise _sees(f"a {reader.op_type} reads {norm.name}")


def _turn_result(value: ir.Value | None, turn: _Turn) -> None:
    """Rotate a value that is added to the stream: a product with or without bias, or a sum of products."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "MatMul" and constant(node.inputs[1]) is not None:
        _set(node, 1, constant_of(*inputs_of(node, 1)) @ turn)
    elif node is not None and node.op_type == "Add":
        for place, part in enumerate(node.inputs):
            if (bias := constant(part)) is None:
                _turn_result(part, turn)
            else:
                _set(node, place, bias @ turn)
    else:
        raise _sees(f"a {'value' if node is None else node.op_type} is added to the residual stream")


def _set(node: ir.Node, place: int, array: NDArray[np.float64]) -> None:
    value = node.inputs[place]
    assert value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)


def _product(graph: ir.Graph, place: ir.Node, name: str, value: ir.Value, matrix: _Turn) -> ir.Value:
    weight = add_initializer(graph, f"{name}.weight", matrix.astype(np.float32))
    return insert_before(graph, place, ir.Node("", "MatMul", [value, weight], name=name))


def _next(graph: ir.Graph, node: ir.Node) -> ir.Node:
    """Return the node that follows another one in the graph."""
    nodes = list(graph)
    return nodes[nodes.index(node) + 1]


def _sees(why: str) -> ModelError:
    return ModelError(
        f"the residual stream of this model cannot be rotated: {why}",
        where="quantize.rotate",
        hint="Leave `rotate` out.",
        code="rotation-seen",
    )
