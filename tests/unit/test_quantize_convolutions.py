"""Convolutions in integers: graphs of a few nodes, and the arithmetic of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.passes.quantize.calibration.activation_ranges import calibrate
from compress.passes.quantize.int8.affine import activation_scale, quantize_bias, quantize_kernel
from compress.passes.quantize.int8.convolutions import fused_output
from compress.passes.quantize.int8.coverage import count_products
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import calibrated_value_names, quantize_static, required_value_names
from compress.passes.quantize.layers import Convolution, layers_to_quantize, weighted_layers
from compress.runtimes.runner import open_session
from tests.draws import generator
from tests.processor import WEIGHT_LIMIT

RNG = generator(0)
X = RNG.normal(size=(4, 8, 6, 6)).astype(np.float32)
Floats = NDArray[np.float32]


def normal(*shape: int) -> Floats:
    return RNG.normal(size=shape, scale=0.3).astype(np.float32)


def graph_of(nodes: Sequence[Any], **constants: NDArray[Any]) -> ir.Model:
    """A graph from x (batch, 8, 6, 6) to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def conv(source: str, weight: str, result: str, *more: str, **attributes: Any) -> Any:
    made: Any = helper.make_node(
        "Conv", [source, weight, *more], [result], name=result, pads=[1, 1, 1, 1], **attributes
    )
    return made


def quantized(
    model: ir.Model, folder: Path, exclude: Sequence[str] = (), per_channel: bool = True
) -> tuple[list[str], Floats, Floats]:
    """The operators of the quantized graph, its outputs, and those of the float one."""
    path, after = folder / "float.onnx", folder / "integer.onnx"
    ir.save(model, path)
    wanted = open_session(str(path)).run(None, {"x": X})[0]
    chosen = layers_to_quantize(model.graph, Int8Spec(exclude=tuple(exclude)))
    names = calibrated_value_names(model.graph, chosen)
    optional = set(names) - required_value_names(chosen)
    ranges = calibrate(
        path, names, lambda: iter({"x": row[None]} for row in X), "minmax", folder, optional=optional
    )
    quantize_static(model, chosen, ranges, per_channel=per_channel, embeddings=True, limit=WEIGHT_LIMIT)
    ir.save(model, after)
    got = open_session(str(after)).run(None, {"x": X})[0]
    return [node.op_type for node in model.graph], got, wanted


def error(got: Floats, wanted: Floats) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_and_its_activation_are_one_operator(
    groups: int, per_channel: bool, tmp_path: Path
) -> None:
    nodes = [conv("x", "w", "h", "b", group=groups), helper.make_node("Relu", ["h"], ["y"])]
    model = graph_of(nodes, w=normal(16, 8 // groups, 3, 3), b=normal(16))
    found, got, wanted = quantized(model, tmp_path, per_channel=per_channel)
    assert found == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert error(got, wanted) < (0.02 if per_channel else 0.03)
    assert got.min() >= 0
    assert count_products(tmp_path / "integer.onnx").integer == 1


def test_a_residual_block_stays_in_integers_to_the_end(tmp_path: Path) -> None:
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Clip", ["a", "zero", "six"], ["a6"]),
        conv("a6", "w2", "b"),
        helper.make_node("Add", ["a6", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p", "p"], ["c"], axis=1),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="head"),
    ]
    constants = {"w1": normal(8, 8, 3, 3), "w2": normal(8, 8, 3, 3), "w3": normal(16, 5), "b3": normal(5)}
    limits = {"zero": np.float32(0).reshape(()), "six": np.float32(6).reshape(())}
    found, got, wanted = quantized(graph_of(nodes, **constants, **limits), tmp_path)
    assert found == [
        "QuantizeLinear",
        "QLinearConv",
        "QLinearConv",
        "QLinearAdd",
        "MaxPool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "Flatten",
        "MatMulIntegerToFloat",
    ]
    assert error(got, wanted) < 0.05
    products = count_products(tmp_path / "integer.onnx")
    assert (products.integer, products.float_names) == (3, ())


def test_what_has_no_integer_kernel_reads_and_writes_floats(tmp_path: Path) -> None:
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Gelu", ["a"], ["g"]),
        conv("g", "w2", "b"),
        helper.make_node("Add", ["b", "g"], ["y"]),
    ]
    found, got, wanted = quantized(graph_of(nodes, w1=normal(8, 8, 3, 3), w2=normal(8, 8, 3, 3)), tmp_path)
    assert found.count("QLinearConv") == 2
    assert "Gelu" in found
    assert error(got, wanted) < 0.05


def test_an_excluded_convolution_is_left_and_allowed(tmp_path: Path) -> None:
    nodes = [conv("x", "w1", "first"), conv("first", "w2", "y")]
    model = graph_of(nodes, w1=normal(8, 8, 3, 3), w2=normal(8, 8, 3, 3))
    found, got, wanted = quantized(model, tmp_path, exclude=["first"])
    assert found == ["Conv", "QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert error(got, wanted) < 0.03
    assert len(count_products(tmp_path / "integer.onnx").float_names) == 1
    assert count_products(tmp_path / "integer.onnx", ["w1"]).float_names == ()


def test_a_value_with_two_readers_keeps_its_negative_part(tmp_path: Path) -> None:
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["a", "r"], ["y"]),
    ]
    _, got, wanted = quantized(graph_of(nodes, w1=normal(8, 8, 3, 3)), tmp_path)
    assert wanted.min() < -0.5
    assert error(got, wanted) < 0.03


def test_limits_that_leave_zero_out_are_no_limits_of_integers() -> None:
    def following(low: float, high: float) -> str:
        nodes = [conv("x", "w", "h"), helper.make_node("Clip", ["h", "low", "high"], ["y"])]
        limits = {"low": np.float32(low).reshape(()), "high": np.float32(high).reshape(())}
        model = graph_of(nodes, w=normal(8, 8, 3, 3), **limits)
        (layer,) = weighted_layers(model.graph)
        assert isinstance(layer, Convolution)
        return str(fused_output(layer.node.outputs[0]).name)

    assert (following(0, 6), following(-1, 1), following(0.5, 6), following(-6, -1)) == ("y", "y", "h", "h")


def test_a_channel_without_weights_keeps_its_bias(tmp_path: Path) -> None:
    weight, bias = normal(8, 8, 3, 3), normal(8)
    weight[3], weight[4], bias[3], bias[4] = 0, 1e-30, 0.7, 0
    _, got, wanted = quantized(graph_of([conv("x", "w", "y", "b")], w=weight, b=bias), tmp_path)
    step = float(np.ptp(wanted)) / 255
    assert got[:, 3] == pytest.approx(0.7, abs=0.55 * step)
    assert error(got, wanted) < 0.02


def test_a_value_that_was_always_zero_stays_zero(tmp_path: Path) -> None:
    nodes = [conv("x", "w", "h", "b"), helper.make_node("Relu", ["h"], ["r"]), conv("r", "w", "y")]
    model = graph_of(nodes, w=normal(8, 8, 3, 3), b=np.full(8, -99, np.float32))
    _, got, wanted = quantized(model, tmp_path)
    assert not wanted.any()
    assert not got.any()
    assert activation_scale(0.0, 0.0) == (1.0, 0)


def test_a_mean_that_is_tiny_beside_what_it_is_of_still_runs(tmp_path: Path) -> None:
    weight = np.zeros((8, 8, 3, 3), np.float32)
    # Values of +-1000 that alternate: their mean over rows and columns is next to nothing.
    nodes = [
        helper.make_node("Mul", ["x", "signs"], ["s"]),
        conv("s", "w", "c"),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    weight[range(8), range(8), 1, 1] = 1e6
    signs = np.where(np.indices((6, 6)).sum(0) % 2, 1e-3, -1e-3).astype(np.float32)
    model = graph_of(nodes, w=weight, signs=signs / np.float32(1))
    path = tmp_path / "float.onnx"
    ir.save(model, path)
    chosen = list(weighted_layers(model.graph))
    names = calibrated_value_names(model.graph, chosen)
    ones = [{"x": np.ones((1, 8, 6, 6), np.float32)}]
    ranges = calibrate(path, names, lambda: iter(ones), "minmax", tmp_path)
    quantize_static(
        model, chosen, {**ranges, "y": (-1e-4, 1e-4)}, per_channel=True, embeddings=True, limit=WEIGHT_LIMIT
    )
    ir.save(model, path)
    assert np.abs(open_session(str(path)).run(None, ones[0])[0]).max() < 1000 / 64


@given(
    largest=st.floats(0, 10), bias=st.floats(-1000, 1000), scale=st.floats(1e-4, 1), per_channel=st.booleans()
)
def test_kernel_and_bias_are_near_what_they_stand_for(
    largest: float, bias: float, scale: float, per_channel: bool
) -> None:
    kernel = np.linspace(-largest, largest, 2 * 3 * 2 * 2).reshape(2, 3, 2, 2).astype(np.float32)
    biases = np.array([bias, 0], np.float32)
    found = quantize_kernel(kernel, per_channel, biases, scale)
    assert found.scales.shape == ((2,) if per_channel else ())
    across = np.broadcast_to(found.scales, (2,)).reshape(2, 1, 1, 1)
    assert np.all(np.abs(found.values * across - kernel) <= across * 0.5001)
    integers = quantize_bias(biases, found.scales, scale)
    assert integers.dtype == np.int32
    restored = integers * np.broadcast_to(found.scales, (2,)).astype(np.float64) * scale
    assert np.all(np.abs(restored - biases) <= across.reshape(2) * scale * 0.5001)
