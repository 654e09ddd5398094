"""A decoder whose stream between layers is rotated, and which computes what it did (QuaRot).

Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024 (arXiv:2404.00456). A norm by the root of
the mean square does not see a rotation once its gain is part of the products behind it, so what writes to the stream
can be turned one way and what reads from it the other. What stood out in single channels is spread over all. The
table of words, and a head that is tied to it, stay as they are: two small products turn what lies between.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.lowering.graph import add_initializer, constant, constant_of, inputs_of, insert_before, scalar

TURNS = ("rotation", "rotation_back")
"""The products that turn the words into the stream, and what the head reads back; they stay floating."""

_OF_SUM = "SkipSimplifiedLayerNormalization"
_NORMS = {"RMSNormalization": 1, _OF_SUM: 2}
"""Norms that a rotation can pass, and where their gain stands."""
_Turn = NDArray[np.float64]


def rotate(graph: ir.Graph) -> None:
    """Turn the stream of a decoder by a random orthogonal matrix, in place.

    Raises:
        ModelError: something that sees a rotation reads the stream, or writes to it.
    """
    words = next((node for node in graph if node.op_type == "Gather" and node.name == "words"), None)
    if words is None:
        raise _sees("it is not a decoder exported by compress")
    turn = rotation(constant_of(inputs_of(words, 0)[0]).shape[1], seed=0)
    stream, following = words.outputs[0], _next(graph, words)
    readers = list(stream.uses())
    entered = _product(graph, following, TURNS[0], stream, turn)
    for use in readers:
        use.node.replace_input_with(use.idx, entered)
    _pass_on(graph, entered, turn)


def rotation(width: int, seed: int) -> _Turn:
    """A random orthogonal matrix, float64 (width, width)."""
    turn, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    # With these signs every rotation is as likely.
    signed: _Turn = turn * np.sign(np.diagonal(upper))
    return signed


def _pass_on(graph: ir.Graph, stream: ir.Value, turn: _Turn) -> None:
    """Turn all that reads the stream and writes to it, from where it begins."""
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
                # Words that are scaled: a rotation passes.
                following.append(node.outputs[0])
        if not following:
            return
        (stream,) = following


def _fold(graph: ir.Graph, norm: ir.Node, turn: _Turn) -> None:
    """Move the gain of a norm into what reads it, which reads what is turned."""
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
            turned = _product(graph, _next(graph, reader), TURNS[1], chosen, back)
            for one in behind:
                one.node.replace_input_with(one.idx, turned)
        else:
            raise _sees(f"a {reader.op_type} reads {norm.name}")


def _turn_result(value: ir.Value | None, turn: _Turn) -> None:
    """Turn what is added to the stream: a product, with a bias or none, or a sum of such."""
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
    """The node behind another one."""
    nodes = list(graph)
    return nodes[nodes.index(node) + 1]


def _sees(why: str) -> ModelError:
    return ModelError(
        f"the residual stream of this model cannot be rotated: {why}",
        where="quantize.rotate",
        hint="Leave `rotate` out.",
        code="rotation-seen",
    )
