"""Weights that several maps share are turned before the graph is quantized, not at run time."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compress.lowering.constants import transpose_constants
from compress.lowering.graph import tidy

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def shared() -> onnx.ModelProto:
    """Two maps with one weight, each turned by a node of its own, and a turned input."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["first"], perm=[1, 0]),
        helper.make_node("Transpose", ["w"], ["second"]),
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("MatMul", ["x", "second"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Transpose", ["c"], ["y"], perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, "n"])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_shared_weights_are_turned_once() -> None:
    model = ir.from_proto(shared())
    assert transpose_constants(model) == 2
    tidy(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul", "Add", "Transpose"]
    assert list(model.graph.initializers) == ["w.transposed"]
    x = np.ones((2, 3), np.float32)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], 2 * WEIGHT @ x.T)


def test_there_is_nothing_to_do_twice() -> None:
    model = ir.from_proto(shared())
    transpose_constants(model)
    tidy(model)
    assert transpose_constants(model) == 0
