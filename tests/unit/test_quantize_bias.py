"""Bias correction: the expected shift against numpy, and that the mean of the outputs comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.lowering.graph import constant
from compress.passes.quantize.calibration.activation_ranges import calibrate
from compress.passes.quantize.int8.affine import quantize_columns
from compress.passes.quantize.int8.bias_correction import correct_biases, expected_shift
from compress.passes.quantize.int8.coverage import count_products
from compress.passes.quantize.int8.dynamic import quantize_dynamic
from compress.passes.quantize.int8.static import calibrated_value_names, quantize_static
from compress.passes.quantize.layers import Linear, weighted_layers
from compress.runtimes.runner import open_session
from tests.unit.test_quantize_convolutions import conv, graph_of
from tests.unit.test_quantize_graphs import model_of, normal


def test_shift_by_hand():
    weight, restored = np.float32([[1, 2], [3, 4]]), np.float32([[1, 1], [3, 5]])
    shift = expected_shift(weight, restored, np.array([1.0, 10.0]), np.array([1.0, 9.0]))
    # 1 + 30 - (1 + 27), 2 + 40 - (1 + 45)
    np.testing.assert_allclose(shift, [3, -4])


def test_shift_of_groups_by_hand():
    # Two groups of one input and one output each.
    weight, restored = np.float32([[1, 2]]), np.float32([[2, 2]])
    mean = np.array([5.0, 7.0])
    np.testing.assert_allclose(expected_shift(weight, restored, mean, mean, groups=2), [-5, 0])


def graph(kind: str) -> ir.Model:
    """One layer with inputs far from zero: x (batch, 32), or (batch, 8, 6, 6)."""
    if kind.startswith("conv"):
        bias = ["b"] if kind == "conv" else []
        return graph_of([conv("x", "w", "y", *bias, group=2)], w=normal(6, 4, 3, 3), b=normal(6))
    weight, nodes = normal(32, 12), []
    if kind == "gemm":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="only", transB=1)]
        weight = np.ascontiguousarray(weight.T)
    elif kind == "gemm without bias":
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="only")]
    elif kind == "matmul":
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="only"),
            helper.make_node("Add", ["b", "p"], ["y"]),
        ]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")]
    constants = {"w": weight, "b": normal(12)}
    return model_of(nodes, constants, [("x", TensorProto.FLOAT, ["n", 32])], [("y", ["n", 12])])


def examples(kind: str) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    shape, axis = ((1, 8, 6, 6), 1) if kind.startswith("conv") else ((5, 32), -1)
    offset = np.moveaxis(random.normal(2, 2, [*[1] * (len(shape) - 1), shape[axis]]), -1, axis)
    return [{"x": (random.normal(size=shape) + offset).astype(np.float32)} for _ in range(40)]


KINDS = ["matmul", "matmul without bias", "gemm", "gemm without bias", "conv", "conv without bias"]


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_the_outputs_comes_back(tmp_path: Path, kind: str, scheme: str):
    if kind.startswith("conv") and scheme == "dynamic":
        pytest.skip("convolutions have no ranges found at run time")
    batches = examples(kind)

    def mean_of(model: ir.Model) -> np.ndarray:
        ir.save(model, tmp_path / "m.onnx")
        session = open_session(str(tmp_path / "m.onnx"))
        out = np.concatenate([session.run(None, batch)[0] for batch in batches])
        # Where padding counts, the window's positions have unlike means.
        return out[:, :, 1:-1, 1:-1].mean(axis=(0, 2, 3)) if out.ndim == 4 else out.mean(axis=0)

    means = {}
    for corrected in (False, True):
        model = graph(kind)
        for name, value in graph_constants.setdefault(kind, dict(model.graph.initializers)).items():
            model.graph.initializers[name].const_value = value.const_value
        wanted = mean_of(model)
        found = list(weighted_layers(model.graph))
        ranges = {}
        if scheme == "static":
            names = calibrated_value_names(model.graph, found)
            ranges = calibrate(tmp_path / "m.onnx", names, lambda: iter(batches), "minmax", tmp_path)
            if "x" in ranges:
                ranges["x"] = (ranges["x"][0], 0.7 * ranges["x"][1])  # cuts, which shifts the mean
        if corrected:
            count = correct_biases(
                model, found, ranges, tmp_path / "m.onnx", lambda: iter(batches), tmp_path, per_channel=False
            )
            assert count == 1
            found = list(weighted_layers(model.graph))
        if scheme == "static":
            quantize_static(model, found, ranges, per_channel=False, embeddings=True)
        else:
            quantize_dynamic(model, found, per_channel=False, embeddings=True)
        means[corrected] = np.abs(mean_of(model) - wanted).max()
        assert count_products(tmp_path / "m.onnx").float_names == ()
    assert means[True] < 0.3 * means[False]


graph_constants: dict[str, dict[str, ir.Value]] = {}


def test_the_shift_goes_into_the_bias(tmp_path: Path):
    model = graph("gemm")
    ir.save(model, tmp_path / "m.onnx")
    batches = examples("gemm")
    (layer,) = weighted_layers(model.graph)
    assert isinstance(layer, Linear)
    before = np.asarray(constant(layer.bias))
    correct_biases(model, [layer], {}, tmp_path / "m.onnx", lambda: iter(batches), tmp_path, per_channel=True)
    (after,) = weighted_layers(model.graph)
    assert isinstance(after, Linear)
    mean = np.concatenate([batch["x"] for batch in batches]).astype(np.float64).mean(axis=0)
    rounded = quantize_columns(layer.weight)
    wanted = before + mean @ (layer.weight - rounded.values * rounded.scales)
    np.testing.assert_allclose(np.asarray(constant(after.bias)), wanted, rtol=1e-4, atol=1e-5)
