"""Graphs of a few nodes, one rewriting each: what stands in the graph, and what onnxruntime computes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ModelError, PassError
from compress.lowering.early_token_selection import select_early
from compress.lowering.graph import add_initializer, tidy
from compress.passes.quantize.calibration.activation_ranges import calibrate
from compress.passes.quantize.int8.coverage import count_products
from compress.passes.quantize.int8.dynamic import quantize_dynamic
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import calibrated_value_names, quantize_static
from compress.passes.quantize.layers import (
    Linear,
    Table,
    excluded_weights,
    layers_to_quantize,
    weighted_layers,
)
from compress.passes.quantize.result import QuantizedModel, check_result
from compress.passes.quantize.weight_only.blocks import quantize_blocks
from compress.passes.quantize.weight_only.matmul_nbits import write_blocks
from compress.runtimes.runner import open_session
from tests.draws import generator
from tests.processor import WEIGHT_LIMIT

RNG = generator(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("time", [1, 2])
def test_each_test_draws_the_same_numbers(time: int):
    np.testing.assert_array_equal(normal(3), np.random.default_rng(0).normal(size=3).astype(np.float32))


def model_of(nodes, constants, inputs, outputs) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def mlp(rank: int = 3) -> ir.Model:
    """x @ a + b, Gelu, @ c + d, all 48 wide inside."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h0"], name="first"),
        helper.make_node("Add", ["h0", "b"], ["h1"]),
        helper.make_node("Gelu", ["h1"], ["h2"]),
        helper.make_node("MatMul", ["h2", "c"], ["h3"], name="second"),
        helper.make_node("Add", ["h3", "d"], ["y"]),
    ]
    constants = {"a": normal(32, 48), "b": normal(48), "c": normal(48, 32), "d": normal(32)}
    axes = ["batch", "sequence"][: rank - 1]
    return model_of(nodes, constants, [("x", TensorProto.FLOAT, [*axes, 32])], [("y", [*axes, 32])])


def lookup(rows: int = 300, width: int = 40) -> tuple[ir.Model, np.ndarray]:
    table = normal(rows, width)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], name="words")]
    inputs = [("ids", TensorProto.INT64, ["batch", "sequence"])]
    return model_of(nodes, {"table": table}, inputs, [("y", ["batch", "sequence", width])]), table


def run(model: ir.Model, folder: Path, **feeds) -> np.ndarray:
    path = folder / "run.onnx"
    ir.save(model, path)
    return open_session(str(path)).run(None, feeds)[0]


def write_rounded(model: ir.Model, block_size: int, symmetric: bool) -> None:
    for layer in list(weighted_layers(model.graph)):
        rows = layer.weight if isinstance(layer, Table) else layer.weight.T
        write_blocks(model.graph, [layer], quantize_blocks(rows, block_size, 4, symmetric))
    tidy(model)


def kinds(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in model.graph)


def close(got: np.ndarray, wanted: np.ndarray, share: float) -> bool:
    return float(np.abs(got - wanted).max()) <= share * float(np.abs(wanted).max())


@pytest.mark.parametrize("rank", [2, 3])
def test_dynamic_products_take_their_bias_in(tmp_path, rank):
    model, x = mlp(rank), normal(*[5, 7][: rank - 1], 32)
    wanted = run(model, tmp_path, x=x)
    quantize_dynamic(
        model, list(weighted_layers(model.graph)), per_channel=True, embeddings=True, limit=WEIGHT_LIMIT
    )
    assert kinds(model) == ["DynamicQuantizeMatMul", "DynamicQuantizeMatMul", "Gelu"]
    assert close(run(model, tmp_path, x=x), wanted, 0.03)
    assert count_products(tmp_path / "run.onnx").integer == 2


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_products_stay_integer_at_any_rank(tmp_path, rank, method):
    model, x = mlp(rank), normal(*[400, 7][: rank - 1], 32)
    wanted = run(model, tmp_path, x=x)
    found = list(weighted_layers(model.graph))
    assert calibrated_value_names(model.graph, found) == ["x"]
    ranges = calibrate(tmp_path / "run.onnx", ["x"], lambda: iter([{"x": x}]), method, tmp_path)
    quantize_static(model, found, ranges, per_channel=True, embeddings=True, limit=WEIGHT_LIMIT)
    # What comes out of the activation function keeps a range found at run time.
    assert kinds(model) == ["DynamicQuantizeMatMul", "Gelu", "MatMulIntegerToFloat", "QuantizeLinear"]
    assert close(run(model, tmp_path, x=x), wanted, 0.05 if method == "minmax" else 0.3)
    products = count_products(tmp_path / "run.onnx")
    assert (products.integer, products.float_names) == (2, ())


def test_calibration_range_is_exact_over_batches(tmp_path):
    model = mlp(2)
    ir.save(model, tmp_path / "m.onnx")
    batches = [{"x": normal(1, 32)} for _ in range(4)]
    low, high = calibrate(tmp_path / "m.onnx", ["h1"], lambda: iter(batches), "minmax", tmp_path)["h1"]
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    hidden = np.concatenate([batch["x"] for batch in batches]) @ constants["a"] + constants["b"]
    assert (low, high) == (pytest.approx(hidden.min(), rel=1e-5), pytest.approx(hidden.max(), rel=1e-5))
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32])
def test_four_bit_products_match_their_blocks(tmp_path, symmetric, block_size):
    weight = normal(40, 24)  # 40 is no multiple of either block size
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")]
    model = model_of(nodes, {"w": weight}, [("x", TensorProto.FLOAT, ["n", 40])], [("y", ["n", 24])])
    write_rounded(model, block_size, symmetric)
    restored = quantize_blocks(weight.T, block_size, 4, symmetric).dequantized().T
    x = normal(3, 40)
    assert close(run(model, tmp_path, x=x), x @ restored, 0.02)
    products = count_products(tmp_path / "run.onnx")
    assert (products.weight_only, products.float_names) == (1, ())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [64, 40])
def test_four_bit_rows_match_their_blocks(tmp_path, symmetric, width):
    model, table = lookup(width=width)
    write_rounded(model, 16, symmetric)
    assert kinds(model) == ["GatherBlockQuantized"]
    restored = quantize_blocks(table, 16, 4, symmetric).dequantized()
    ids = np.array([[0, 299, 7]])
    np.testing.assert_allclose(run(model, tmp_path, ids=ids), restored[ids], atol=1e-5)


def test_four_bit_rows_of_odd_width_are_refused():
    model, _ = lookup(width=41)
    with pytest.raises(ModelError, match="odd number"):
        write_rounded(model, 16, symmetric=True)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("width", [128, 40])
def test_eight_bit_rows(tmp_path, per_channel, width):
    model, table = lookup(width=width)
    quantize_dynamic(model, list(weighted_layers(model.graph)), per_channel=per_channel, embeddings=True)
    assert ("GatherBlockQuantized" in kinds(model)) == per_channel
    ids = np.array([[0, 299, 7]])
    assert close(run(model, tmp_path, ids=ids), table[ids], 0.01)


@pytest.mark.parametrize("width", [128, 40])
def test_four_bit_rows_beside_eight_bit_products(tmp_path, width):
    model, table = lookup(width=width)
    found = list(weighted_layers(model.graph))
    quantize_dynamic(model, found, per_channel=True, embeddings=True, table_bits=4)
    stored = next(value.const_value for name, value in model.graph.initializers.items() if "uint4" in name)
    assert stored.shape == (300, width // 2)
    # 40 is no multiple of 64 or 32: its blocks have 16 values, the last of them half filled.
    restored = quantize_blocks(table, 64 if width == 128 else 16, 4, symmetric=True).dequantized()
    ids = np.array([[0, 299, 7]])
    np.testing.assert_allclose(run(model, tmp_path, ids=ids), restored[ids], atol=1e-5)


def test_small_tables_are_left_alone():
    model, _ = lookup(rows=2, width=128)
    assert list(weighted_layers(model.graph)) == []


def test_a_gemm_is_a_linear_layer(tmp_path):
    weight, bias = normal(24, 32), normal(24)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="head", transB=1)]
    model = model_of(
        nodes, {"w": weight, "b": bias}, [("x", TensorProto.FLOAT, ["n", 32])], [("y", ["n", 24])]
    )
    (layer,) = weighted_layers(model.graph)
    assert isinstance(layer, Linear)
    assert layer.weight.shape == (32, 24)
    quantize_dynamic(model, [layer], per_channel=True, embeddings=True, limit=WEIGHT_LIMIT)
    x = normal(3, 32)
    assert close(run(model, tmp_path, x=x), x @ weight.T + bias, 0.03)


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("width", [48, 1])
def test_only_a_vector_as_wide_as_the_product_is_its_bias(tmp_path, op, width):
    added = normal(7 if width == 1 else 1)
    if op == "MatMul":
        nodes = [helper.make_node("MatMul", ["x", "a"], ["h"], name="product")]
    else:
        nodes = [helper.make_node("Gemm", ["x", "a"], ["h"], name="product")]
    nodes.append(helper.make_node("Add", ["h", "b"], ["y"]))
    shape = ["n", max(width, len(added))]
    x, constants = normal(20, 32), {"a": normal(32, width), "b": added}
    model = model_of(nodes, constants, [("x", TensorProto.FLOAT, ["n", 32])], [("y", shape)])
    wanted = run(model, tmp_path, x=x)
    quantize_dynamic(model, list(weighted_layers(model.graph)), per_channel=True, embeddings=True, limit=64)
    assert kinds(model) == ["Add", "DynamicQuantizeMatMul"]
    assert close(run(model, tmp_path, x=x), wanted, 0.03)


def other_products_graph() -> ir.Model:
    """A weight on the left, and a bias of one number in a `Gemm`."""
    nodes = [
        helper.make_node("MatMul", ["left", "x"], ["h"], name="turned"),
        helper.make_node("Gemm", ["h", "a", "b"], ["y"], name="with_number"),
    ]
    constants = {"left": normal(16, 24), "a": normal(32, 48), "b": normal(1)}
    return model_of(nodes, constants, [("x", TensorProto.FLOAT, [24, 32])], [("y", [16, 48])])


def test_products_that_are_no_layers_can_be_excluded(tmp_path):
    model = other_products_graph()
    ir.save(model, tmp_path / "model.onnx")
    assert list(weighted_layers(model.graph)) == []
    allowed = excluded_weights(model.graph, Int8Spec(exclude=("turned", "with_*")))
    assert allowed == ["left", "a"]
    products = count_products(tmp_path / "model.onnx", allowed)
    assert products.float_names == ()
    assert count_products(tmp_path / "model.onnx").float_names
    with pytest.raises(ModelError, match="no layer of the model matches") as caught:
        excluded_weights(model.graph, Int8Spec(exclude=("other",)))
    assert "turned, with_number" in str(caught.value)


def test_a_product_left_in_floats_is_told_by_the_name_that_excludes_it(tmp_path):
    for folder, size in (("before", 2), ("after", 1)):
        (tmp_path / folder).mkdir()
        model = other_products_graph()
        add_initializer(model.graph, "ballast", np.zeros(1000 * size, np.float32))
        ir.save(model, tmp_path / folder / "model.onnx")
    with pytest.raises(PassError, match=r"in floating point: with_number\n"):
        check_result(tmp_path / "before", QuantizedModel(tmp_path / "after", "dynamic", ["left"], {}))


def test_a_shared_weight_is_stored_once():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
    ]
    model = model_of(nodes, {"w": normal(32, 32)}, [("x", TensorProto.FLOAT, ["n", 32])], [("y", ["n", 32])])
    quantize_dynamic(model, list(weighted_layers(model.graph)), per_channel=True, embeddings=True)
    assert sorted(model.graph.initializers) == ["w.int8", "w.scale"]


def test_excluded_layers_are_left_and_allowed(tmp_path):
    model = mlp()
    chosen = layers_to_quantize(model.graph, Int8Spec(exclude=("sec*",)))
    assert [layer.node.name for layer in chosen] == ["first"]
    quantize_dynamic(model, chosen, per_channel=True, embeddings=True)
    path = tmp_path / "m.onnx"
    ir.save(model, path)
    assert len(count_products(path).float_names) == 1
    assert count_products(path, ["c"]).float_names == ()


def test_a_pattern_that_fits_nothing_is_an_error():
    with pytest.raises(ModelError, match="no layer of the model matches") as caught:
        layers_to_quantize(mlp().graph, Int8Spec(exclude=("encoder.*",)))
    assert "first, second" in str(caught.value)


def test_a_weight_dequantized_at_every_call_counts_as_floating(tmp_path):
    """The placement that several tools ship: the weight is int8 in the file and float at run time."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]),
        helper.make_node("MatMul", ["x", "wf"], ["y"], name="slow"),
    ]
    constants = {"w": RNG.integers(-127, 127, (32, 24)).astype(np.int8), "s": np.float32(0.1).reshape(())}
    model = model_of(nodes, constants, [("x", TensorProto.FLOAT, ["n", 32])], [("y", ["n", 24])])
    ir.save(model, tmp_path / "m.onnx")
    products = count_products(tmp_path / "m.onnx")
    assert products.integer == 0
    assert len(products.float_names) + products.weight_only == 1


def classifier_tail() -> ir.Model:
    """A residual feed-forward block over tokens, of which only the first is read."""
    nodes = [
        helper.make_node("Abs", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "a"], ["h0"], name="up"),
        helper.make_node("Gelu", ["h0"], ["h1"]),
        helper.make_node("MatMul", ["h1", "c"], ["h2"], name="down"),
        helper.make_node("Add", ["h2", "d"], ["h3"]),
        helper.make_node("Add", ["h3", "t"], ["h4"]),
        helper.make_node("LayerNormalization", ["h4", "g", "e"], ["h5"], axis=2),
        helper.make_node("Gather", ["h5", "zero"], ["y"], axis=1),
    ]
    constants = {
        "a": normal(16, 32),
        "c": normal(32, 16),
        "d": normal(16),
        "g": normal(16),
        "e": normal(16),
        "zero": np.array(0, np.int64),
    }
    model = model_of(nodes, constants, [("x", TensorProto.FLOAT, ["b", "s", 16])], [("y", ["b", 16])])
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    return ir.from_proto(inferred)


def test_selecting_early_is_exact(tmp_path):
    model, x = classifier_tail(), normal(3, 5, 16)
    wanted = run(model, tmp_path, x=x)
    assert select_early(model)
    tidy(model)
    order = [node.op_type for node in model.graph]
    assert order.count("Gather") == 1  # what both branches read is selected once
    assert order.index("Gather") < order.index("MatMul")
    np.testing.assert_allclose(run(model, tmp_path, x=x), wanted, atol=1e-5)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_value_that_others_read_whole_is_not_narrowed(tmp_path):
    model = classifier_tail()
    node = ir.node(
        "ReduceMax", [next(n for n in model.graph if n.op_type == "Gelu").outputs[0]], {"keepdims": 0}
    )
    node.outputs[0].name = "whole"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    x = normal(3, 5, 16)
    wanted = run(model, tmp_path, x=x)
    assert select_early(model)
    order = [node.op_type for node in model.graph]
    assert order.index("Gather") > order.index("Gelu")
    np.testing.assert_allclose(run(model, tmp_path, x=x), wanted, atol=1e-5)


def test_tables_are_found():
    model, table = lookup()
    (layer,) = weighted_layers(model.graph)
    assert isinstance(layer, Table)
    np.testing.assert_array_equal(layer.weight, table)
