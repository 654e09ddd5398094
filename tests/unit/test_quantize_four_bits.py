"""The four methods of 4-bit weights: their maths, and what a session makes of the nibbles in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from compress.encoding.inputs import Batch
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.layers import weighted_layers
from compress.passes.quantize.scale_folding import scale_channels, source_groups
from compress.passes.quantize.weight_only.awq import search_scales
from compress.passes.quantize.weight_only.blocks import pack_nibbles, quantize_blocks, split_into_blocks
from compress.passes.quantize.weight_only.clip import clipped_blocks
from compress.passes.quantize.weight_only.gptq import gptq_blocks, output_error
from compress.passes.quantize.weight_only.hessian import InputMoments, moments_of
from compress.passes.quantize.weight_only.hqq import block_errors, fit_blocks
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.runtimes.runner import open_session
from tests.draws import generator
from tests.quantize_specs import quantize_spec

METHODS = ("rtn", "hqq", "gptq", "awq")
RNG = generator(0)
WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-100, 100, width=32),
)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def correlated(rows: int, width: int) -> np.ndarray:
    """Inputs of a few directions, some of them far larger than others."""
    return (normal(rows, 6) * [8, 4, 2, 1, 1, 1] @ normal(6, width) + 0.1 * normal(rows, width)).astype(
        np.float32
    )


def moments(x: np.ndarray) -> InputMoments:
    return InputMoments(x.T.astype(np.float64) @ x / len(x), np.abs(x).mean(axis=0, dtype=np.float64))


def encoder_block() -> ir.Model:
    """Norm, linear, Relu, linear, norm, Gelu, linear: every way of making an input, and a residual."""
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape)

    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "e"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "a"], ["h0"], name="first"),
        helper.make_node("Add", ["h0", "b"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Gemm", ["h2", "c", "d"], ["h3"], name="second", transB=1),
        helper.make_node("Gelu", ["h3"], ["h4"]),
        helper.make_node("MatMul", ["h4", "f"], ["h5"], name="third"),
        helper.make_node("Add", ["h5", "x"], ["y"]),
    ]
    constants = {
        "g": 1 + 0.1 * normal(40),
        "e": normal(40),
        "a": normal(40, 48),
        "b": normal(48),
        "c": normal(64, 48),
        "d": normal(64),
        "f": normal(64, 40),
    }
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 40])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def saved(model: ir.Model, folder: Path, name: str = "model.onnx") -> Path:
    ir.save(model, folder / name)
    return folder / name


def inputs_of(x: np.ndarray) -> Callable[[], Iterator[Batch]]:
    return lambda: ({"x": x[row : row + 1]} for row in range(len(x)))


def quantized(folder: Path, x: np.ndarray, **spec: object) -> Path:
    path = saved(encoder_block(), folder, "float.onnx")
    model = ir.load(path)
    quantize_weights(model, path, WeightOnlySpec(**spec), inputs_of(x), folder)
    return saved(model, folder)


def read_back(path: Path, node_name: str) -> np.ndarray:
    """The weight (inputs, outputs) that stands in a file's MatMulNBits, worked out from its bytes alone."""
    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    node = next(node for node in graph.node if node.name == node_name)
    given = {attribute.name: attribute.i for attribute in node.attribute}
    inputs, outputs, size = given["K"], given["N"], given["block_size"]
    count = -(-inputs // size)
    packed, scales = tensors[node.input[1]], tensors[node.input[2]].reshape(outputs, count)
    assert packed.shape == (outputs, count, size // 2)
    zeros = np.full((outputs, count), 8.0)
    if len(node.input) > 3:
        pairs = tensors[node.input[3]].reshape(outputs, -1)
        zeros = np.array(
            [
                [(row[place // 2] >> (4 * (place % 2))) & 15 for place in range(count)]
                for row in pairs.astype(int)
            ]
        )
    weight = np.zeros((inputs, outputs))
    for output in range(outputs):
        for place in range(inputs):
            block, offset = divmod(place, size)
            nibble = (int(packed[output, block, offset // 2]) >> (4 * (offset % 2))) & 15
            weight[place, output] = (nibble - zeros[output, block]) * scales[output, block]
    return weight


@pytest.mark.parametrize(("width", "size"), [(512, 256), (576, 128), (40, 128)])
def test_blocks_of_256_where_they_fill_a_row(tmp_path, width, size):
    weight = np.random.default_rng(3).normal(size=(width, 24)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 24])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = saved(
        ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)),
        tmp_path,
        "float.onnx",
    )
    model, x = ir.load(path), np.eye(width, dtype=np.float32)
    quantize_weights(
        model,
        path,
        WeightOnlySpec(bits=4, method="gptq", block_size=256, symmetric=False),
        inputs_of(x),
        tmp_path,
    )
    node = next(node for node in model.graph if node.op_type == "MatMulNBits")
    assert node.attributes["block_size"].as_int() == size
    wanted = read_back(saved(model, tmp_path), "only")
    got = open_session(str(tmp_path / "model.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("method", METHODS)
def test_a_session_multiplies_by_what_the_nibbles_say(tmp_path, method, block_size, symmetric):
    path = quantized(tmp_path, correlated(200, 40), method=method, block_size=block_size, symmetric=symmetric)
    for name, width in (("first", 40), ("second", 48), ("third", 64)):
        model = onnx.load(str(path))
        node = next(node for node in model.graph.node if node.name == name)
        del model.graph.node[:]
        del model.graph.input[:], model.graph.output[:]
        kept = helper.make_node(
            node.op_type, ["x", *node.input[1:]], ["y"], domain=node.domain,
            **{attribute.name: attribute.i for attribute in node.attribute},
        )  # fmt: skip
        model.graph.node.append(kept)
        model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width]))
        model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None]))
        onnx.save(model, str(tmp_path / "one.onnx"))
        got = open_session(str(tmp_path / "one.onnx")).run(None, {"x": np.eye(width, dtype=np.float32)})[0]
        wanted = read_back(path, name)
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("method", METHODS)
def test_the_quantized_model_stays_near_the_float_one(tmp_path, method):
    x = correlated(200, 40)
    path = quantized(tmp_path, x, method=method, block_size=16, symmetric=False)
    wanted = open_session(str(tmp_path / "float.onnx")).run(None, {"x": x})[0]
    got = open_session(str(path)).run(None, {"x": x})[0]
    assert np.linalg.norm(got - wanted) < 0.2 * np.linalg.norm(wanted)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["float.onnx", "model.onnx"]


@given(WEIGHTS, st.sampled_from([16, 32]), st.booleans())
@settings(max_examples=60)
def test_a_fitted_grid_is_no_worse_than_rounding_in_any_block(rows, block_size, symmetric):
    cut = split_into_blocks(rows, block_size)
    errors = [
        block_errors(cut, found.values, found.scales, found.zero_points, 4)
        for found in (
            fit_blocks(rows, block_size, 4, symmetric),
            quantize_blocks(rows, block_size, 4, symmetric),
        )
    ]
    assert (errors[0] <= errors[1]).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rows", [RNG.standard_t(3, size=(64, 256)), RNG.normal(size=(64, 256))])
def test_a_fitted_grid_gains_with_outliers_and_without(rows, symmetric):
    rows = rows.astype(np.float32)
    fitted = fit_blocks(rows, 32, 4, symmetric).dequantized()
    rounded = quantize_blocks(rows, 32, 4, symmetric).dequantized()
    assert np.square(fitted - rows).mean() < 0.97 * np.square(rounded - rows).mean()


def test_the_error_of_blocks_by_hand():
    rows = np.array([[-8.0, 4.25, 2.0, 1.0]], np.float32)
    blocks = quantize_blocks(rows, 4, 4, symmetric=True)
    found = block_errors(split_into_blocks(rows, 4), blocks.values, blocks.scales, blocks.zero_points, 4)
    np.testing.assert_allclose(found, [[0.25**2]], rtol=1e-6)


@pytest.mark.parametrize("activation_order", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [40, 200])
def test_feedback_costs_the_outputs_less_than_rounding(width, symmetric, activation_order):
    rows, seen = normal(24, width), moments(correlated(300, width)).second
    found = gptq_blocks(rows, seen, 32, 4, symmetric, activation_order=activation_order)
    for other in (quantize_blocks(rows, 32, 4, symmetric), fit_blocks(rows, 32, 4, symmetric)):
        assert output_error(rows, found.dequantized(), seen) < 0.7 * output_error(
            rows, other.dequantized(), seen
        )


def test_without_correlation_there_is_nothing_to_feed_back():
    rows = normal(8, 64)
    found = gptq_blocks(rows, np.eye(64), 32, 4, symmetric=False)
    wanted = clipped_blocks(rows, np.ones(64), 32, 4, symmetric=False)
    np.testing.assert_array_equal(found.dequantized(), wanted.dequantized())


@given(WEIGHTS, st.sampled_from([16, 32]), st.booleans(), st.sampled_from([4, 8]))
@settings(max_examples=60)
def test_a_clipped_grid_is_no_worse_than_rounding_in_any_block(rows, block_size, symmetric, bits):
    counted = np.linspace(0.1, 3, rows.shape[1])
    errors = [
        split_into_blocks(((rows - found.dequantized()) ** 2 * counted).astype(np.float32), block_size).sum(
            axis=2
        )
        for found in (
            clipped_blocks(rows, counted, block_size, bits, symmetric),
            quantize_blocks(rows, block_size, bits, symmetric),
        )
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-5) + 1e-30).all()


def test_a_clipped_grid_lets_go_what_hardly_counts():
    rows, counted = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32), np.ones(32)
    rows[:, 7], counted[7] = 6, 1e-6
    found = clipped_blocks(rows, counted, 32, 4, symmetric=True).dequantized()
    plain = quantize_blocks(rows, 32, 4, symmetric=True).dequantized()
    assert ((found - rows) ** 2 @ counted).mean() < 0.5 * ((plain - rows) ** 2 @ counted).mean()


def test_feedback_stands_inputs_that_are_always_zero():
    x = correlated(300, 64)
    x[:, 5] = 0
    found = gptq_blocks(normal(8, 64), moments(x).second, 32, 4, symmetric=True)
    assert np.isfinite(found.dequantized()).all()


def test_the_output_error_is_that_of_the_outputs():
    rows, x = normal(5, 40), correlated(30, 40)
    restored = quantize_blocks(rows, 16, 4, symmetric=True).dequantized()
    wanted = ((x.astype(np.float64) @ (rows - restored).T) ** 2).sum()
    assert output_error(rows, restored, x.T.astype(np.float64) @ x) == pytest.approx(wanted, rel=1e-6)


def test_scales_help_the_inputs_that_are_large():
    rows, x = normal(24, 64), normal(500, 64)
    x[:, 3] *= 30
    scales = search_scales(rows, moments(x), 32, 4, symmetric=True)
    assert scales.argmax() == 3
    restored = quantize_blocks(rows * scales, 32, 4, symmetric=True).dequantized() / scales
    plain = quantize_blocks(rows, 32, 4, symmetric=True).dequantized()
    second = moments(x).second
    assert output_error(rows, restored, second) < 0.7 * output_error(rows, plain, second)


def test_inputs_of_one_size_are_not_scaled(tmp_path):
    x = np.sign(normal(400, 40))  # every |x| is 1
    np.testing.assert_array_equal(
        search_scales(normal(8, 40), moments(x), 16, 4, symmetric=True), np.ones(40)
    )


def test_scales_of_one_leave_rounding_to_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.passes.quantize.weight_only.awq.EXPONENTS", (0.0,))
    x = correlated(50, 40)
    scaled = onnx.load(str(quantized(tmp_path, x, method="awq")))
    plain = onnx.load(str(quantized(tmp_path, x, method="rtn")))
    assert scaled == plain


def test_moments_are_those_of_all_examples(tmp_path):
    path, x = saved(encoder_block(), tmp_path), correlated(30, 40)
    found = moments_of(path, ["x", "h2"], inputs_of(x), tmp_path)
    np.testing.assert_allclose(found["x"].second, x.T.astype(np.float64) @ x / 30, rtol=1e-4)
    np.testing.assert_allclose(found["x"].mean_abs, np.abs(x).mean(axis=0), rtol=1e-4)
    assert found["h2"].second.shape == (48, 48)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_scales_move_without_changing_the_model(tmp_path):
    model, x = encoder_block(), correlated(50, 40)
    wanted = open_session(str(saved(model, tmp_path))).run(None, {"x": x})[0]
    found = source_groups(list(weighted_layers(model.graph)))
    scales = [np.exp(normal(group.layers[0].weight.shape[0])) for group in found]
    # The norm and the linear layer before a Relu take the division in; a Gelu cannot.
    folded = [scale_channels(model.graph, *one) for one in zip(found, scales, strict=True)]
    assert folded == [True, True, False]
    assert [node.op_type for node in model.graph].count("Mul") == 1
    got = open_session(str(saved(model, tmp_path))).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_an_input_that_others_read_is_divided_for_the_layer_alone(tmp_path):
    model, x = encoder_block(), correlated(50, 40)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    last = list(model.graph)[-1]
    last.replace_input_with(1, norm.outputs[0])  # the residual of a model that normalises after its sums
    wanted = open_session(str(saved(model, tmp_path))).run(None, {"x": x})[0]
    group = source_groups(list(weighted_layers(model.graph)))[0]
    assert not scale_channels(model.graph, group, np.exp(normal(40)))
    got = open_session(str(saved(model, tmp_path))).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 33)), elements=st.integers(0, 15)))
def test_nibbles_unpack_to_what_was_packed(values):
    packed = pack_nibbles(values)
    assert packed.shape == (len(values), -(-values.shape[1] // 2))
    unpacked = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(values), -1)
    np.testing.assert_array_equal(unpacked[:, : values.shape[1]], values)
    assert not unpacked[:, values.shape[1] :].any()


def test_eight_bits_are_of_weights_alone_where_the_scheme_says_so():
    asked = {"scheme": "weight_only", "method": "gptq", "block_size": 64, "eight_bits": ["*.feed_out"]}
    for bits in (4, 8):
        found = quantize_spec({"bits": bits, **asked})
        assert isinstance(found, WeightOnlySpec)
        assert (found.bits, found.table_bits, found.block_size) == (bits, bits, 64)
    assert isinstance(quantize_spec({"bits": 8}), Int8Spec)
    with pytest.raises(ValidationError, match="'auto', 'dynamic' or 'static'"):
        quantize_spec({"scheme": "weight_only"})
