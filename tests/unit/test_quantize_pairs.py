"""Integer operators written as pairs: the session makes them integer operators again, with the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.passes.quantize.calibration.activation_ranges import calibrate
from compress.passes.quantize.int8.coverage import count_products
from compress.passes.quantize.int8.qdq import convert_to_qdq
from compress.passes.quantize.int8.static import calibrated_value_names, quantize_static
from compress.passes.quantize.layers import weighted_layers
from tests.processor import WEIGHT_LIMIT
from tests.unit.test_quantize_convolutions import X, conv, graph_of
from tests.unit.test_quantize_convolutions import normal as kernel
from tests.unit.test_quantize_graphs import kinds, mlp, model_of, normal, run
from tests.unit.test_quantize_smoothing import block


def both(model: ir.Model, folder: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of the float model, of the operator form, and of the pairs, which are left in `run.onnx`."""
    wanted = run(model, folder, x=x)
    found = list(weighted_layers(model.graph))
    names = calibrated_value_names(model.graph, found)
    ranges = calibrate(folder / "run.onnx", names, lambda: iter([{"x": x}]), "minmax", folder)
    quantize_static(model, found, ranges, per_channel=True, embeddings=True, limit=WEIGHT_LIMIT)
    operators = run(model, folder, x=x)
    convert_to_qdq(model)
    return wanted, operators, run(model, folder, x=x)


@pytest.mark.parametrize("rank", [2, 3])
def test_products_fuse_at_any_rank(tmp_path: Path, rank: int):
    model = mlp(rank)
    _, operators, written = both(model, tmp_path, normal(*[40, 7][: rank - 1], 32))
    np.testing.assert_allclose(written, operators, atol=5e-3 * float(np.abs(operators).max()))
    assert {"MatMul", "QuantizeLinear", "DequantizeLinear"} < set(kinds(model))
    products = count_products(tmp_path / "run.onnx")
    assert (products.integer, products.float_names) == (2, ())


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8])
def test_an_output_with_next_to_no_weights_keeps_its_bias(tmp_path: Path, rank: int, size: float):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    constants = {"a": normal(32, 48) / 8, "b": normal(48)}
    constants["a"][:, 5] *= size
    axes = ["n", "m"][: rank - 1]
    model = model_of(nodes, constants, [("x", TensorProto.FLOAT, [*axes, 32])], [("y", [*axes, 48])])
    wanted, _, written = both(model, tmp_path, normal(*[40, 7][: rank - 1], 32))
    np.testing.assert_allclose(written[..., 5], np.full_like(wanted[..., 5], constants["b"][5]), rtol=1e-4)
    products = count_products(tmp_path / "run.onnx")
    assert (products.integer, products.float_names) == (1, ())


def test_a_product_before_relu_stays_an_operator(tmp_path: Path):
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    constants = {"a": normal(32, 48), "b": normal(48)}
    model = model_of(nodes, constants, [("x", TensorProto.FLOAT, ["n", 32])], [("y", ["n", 48])])
    _, operators, written = both(model, tmp_path, normal(20, 32))
    np.testing.assert_array_equal(written, operators)
    assert kinds(model) == ["MatMulIntegerToFloat", "QuantizeLinear", "Relu"]
    assert count_products(tmp_path / "run.onnx").float_names == ()


def test_attention_becomes_an_integer_product_and_its_heads(tmp_path: Path):
    model = block("Gelu")
    _, operators, written = both(model, tmp_path, normal(3, 7, 16))
    np.testing.assert_allclose(written, operators, atol=2e-2 * float(np.abs(operators).max()))
    assert "MultiHeadAttention" in kinds(model)
    products = count_products(tmp_path / "run.onnx")
    assert (products.integer, products.float_names) == (4, ())


def test_convolutions_and_what_lies_between_them_fuse(tmp_path: Path):
    nodes = [
        conv("x", "w1", "a", "b1"),
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
    model = graph_of(
        nodes, w1=kernel(8, 8, 3, 3), b1=kernel(8), w2=kernel(8, 8, 3, 3), w3=kernel(16, 5), b3=kernel(5),
        zero=np.float32(0).reshape(()), six=np.float32(6).reshape(()),
    )  # fmt: skip
    wanted, operators, written = both(model, tmp_path, X)
    np.testing.assert_allclose(written, operators, atol=1e-3)
    assert np.abs(written - wanted).max() < 0.05 * np.abs(wanted).max()
    assert not any(name.startswith("QLinear") for name in kinds(model))
    products = count_products(tmp_path / "run.onnx")
    assert (products.integer, products.float_names) == (3, ())
