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

_SKIP_NORM = "SkipSimplifiedLayerNormalization"
_NORMS = {"RMSNormalization": 1, _SKIP_NORM: 2}
"""Norms that commute with a rotation, and the input index of their gain."""
_Matrix = NDArray[np.float64]


def rotate(graph: ir.Graph) -> None:
    """Rotate the residual stream of a decoder by a random orthogonal matrix, in place.

    Raises:
        ModelError: an operator that does not commute with the rotation reads or writes the stream.
    """
    embedding = next((node for node in graph if node.op_type == "Gather" and node.name == "words"), None)
    if embedding is None:
        raise _rotation_error("it is not a decoder exported by compress")
    rotation_matrix = rotation(constant_of(inputs_of(embedding, 0)[0]).shape[1], seed=0)
    stream, next_node = embedding.outputs[0], _next(graph, embedding)
    readers = list(stream.uses())
    rotated = _product(graph, next_node, ROTATIONS[0], stream, rotation_matrix)
    for use in readers:
        use.node.replace_input_with(use.idx, rotated)
    _rotate_stream(graph, rotated, rotation_matrix)


def rotation(width: int, seed: int) -> _Matrix:
    """Return a random orthogonal matrix, float64 (width, width)."""
    orthogonal, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    # These signs make the distribution uniform (Haar measure).
    signed: _Matrix = orthogonal * np.sign(np.diagonal(upper))
    return signed


def _rotate_stream(graph: ir.Graph, stream: ir.Value, rotation_matrix: _Matrix) -> None:
    """Rotate all readers and writers of the stream, starting at its first value."""
    while True:
        next_values: list[ir.Value] = []
        for use in list(stream.uses()):
            node = use.node
            if node.op_type in _NORMS:
                _fold(graph, node, rotation_matrix)
            elif node.op_type != "Mul" or scalar(node.inputs[1 - use.idx]) is None:
                raise _rotation_error(f"a {node.op_type} reads the residual stream")
            if node.op_type == _SKIP_NORM:
                _rotate_output(node.inputs[0], rotation_matrix)
                next_values.append(node.outputs[3])
            elif node.op_type == "Mul":
                # Scaled embeddings: a scalar commutes with the rotation.
                next_values.append(node.outputs[0])
        if not next_values:
            return
        (stream,) = next_values


def _fold(graph: ir.Graph, norm: ir.Node, rotation_matrix: _Matrix) -> None:
    """Fold the gain of a norm and the inverse rotation into the readers of the norm."""
    gain_index = _NORMS[norm.op_type]
    gain = constant_of(*inputs_of(norm, gain_index)).astype(np.float64)
    norm.replace_input_with(
        gain_index, add_initializer(graph, f"{norm.name}.ones", np.ones(len(gain), np.float32))
    )
    inverse = rotation_matrix.T * gain
    for use in list(norm.outputs[0].uses()):
        reader = use.node
        if reader.op_type == "MatMul" and use.idx == 0 and constant(reader.inputs[1]) is not None:
            _set(reader, 1, inverse @ constant_of(*inputs_of(reader, 1)))
        elif reader.op_type == "GatherND":
            chosen = reader.outputs[0]
            gathered_uses = list(chosen.uses())
            rotated = _product(graph, _next(graph, reader), ROTATIONS[1], chosen, inverse)
            for one in gathered_uses:
                one.node.replace_input_with(one.idx, rotated)
        else:
            raise _rotation_error(f"a {reader.op_type} reads {norm.name}")


def _rotate_output(value: ir.Value | None, rotation_matrix: _Matrix) -> None:
    """Rotate a value that is added to the stream: a product with or without bias, or a sum of products."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "MatMul" and constant(node.inputs[1]) is not None:
        _set(node, 1, constant_of(*inputs_of(node, 1)) @ rotation_matrix)
    elif node is not None and node.op_type == "Add":
        for index, part in enumerate(node.inputs):
            if (bias := constant(part)) is None:
                _rotate_output(part, rotation_matrix)
            else:
                _set(node, index, bias @ rotation_matrix)
    else:
        raise _rotation_error(
            f"a {'value' if node is None else node.op_type} is added to the residual stream"
        )


def _set(node: ir.Node, index: int, array: NDArray[np.float64]) -> None:
    value = node.inputs[index]
    assert value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)


def _product(graph: ir.Graph, anchor: ir.Node, name: str, value: ir.Value, matrix: _Matrix) -> ir.Value:
    weight = add_initializer(graph, f"{name}.weight", matrix.astype(np.float32))
    return insert_before(graph, anchor, ir.Node("", "MatMul", [value, weight], name=name))


def _next(graph: ir.Graph, node: ir.Node) -> ir.Node:
    """Return the node that follows another one in the graph."""
    nodes = list(graph)
    return nodes[nodes.index(node) + 1]


def _rotation_error(why: str) -> ModelError:
    return ModelError(
        f"the residual stream of this model cannot be rotated: {why}",
        where="quantize.rotate",
        hint="Leave `rotate` out.",
        code="rotation-seen",
    )
