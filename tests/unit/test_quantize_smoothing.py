"""SmoothQuant: the arithmetic by hand, and that the float model stays what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from compress.passes.quantize.int8 import smoothquant
from compress.passes.quantize.int8.preparation import prepare
from compress.passes.quantize.int8.smoothquant import (
    ChannelSample,
    best_alpha,
    factors_of,
    output_error,
    smooth,
    smoothing_factors,
)
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.layers import weighted_layers
from tests.unit.test_quantize_graphs import mlp, model_of, normal, run

POSITIVE = arrays.arrays(np.float32, 5, elements=st.floats(0, 1e4, width=32))


def test_factors_by_hand():
    factors = smoothing_factors(np.float32([4, 0, 9]), np.float32([1, 2, 4]), 0.5)
    np.testing.assert_allclose(factors, [2, 1, 1.5])
    np.testing.assert_allclose(smoothing_factors(np.float32([4.0]), np.float32([2.0]), 1.0), [4])
    np.testing.assert_allclose(smoothing_factors(np.float32([4.0]), np.float32([2.0]), 0.0), [0.5])


@settings(deadline=None)
@given(POSITIVE, POSITIVE, st.floats(0, 1))
def test_factors_can_be_divided_by(activations, weights, alpha):
    factors = smoothing_factors(activations, weights, alpha)
    assert (factors >= 1 / 1024).all()
    assert (factors <= 1024).all()


def sample_of(rows: np.ndarray) -> ChannelSample:
    sample = ChannelSample(len(rows))
    sample.add(rows)
    return sample


def outliers(rows: int, width: int) -> np.ndarray:
    x = normal(rows, width)
    x[:, 3] *= 80
    return x


@pytest.mark.parametrize("limit", [127, 64])
def test_the_error_is_that_of_the_integers(limit):
    rows, weight = normal(6, 4), normal(4, 3)
    low, high = min(rows.min(), 0), max(rows.max(), 0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    x = (np.clip(np.rint(rows / scale) + zero, 0, 255) - zero) * scale
    steps = np.abs(weight).max(axis=0) / limit
    w = np.rint(weight / steps) * steps
    wanted = rows @ weight
    error = np.square(x @ w - wanted).sum() / np.square(wanted).sum()
    found = output_error(sample_of(rows), [weight], np.ones(4, np.float32), limit=limit)
    assert found == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(("reduced", "limit"), [(True, 64), (False, 127)])
def test_the_search_rounds_as_the_file_will(tmp_path: Path, monkeypatch, reduced, limit):
    seen = set()

    def observed(*arguments, **named):
        seen.add(named.get("limit", arguments[-1]))
        return 0.0

    monkeypatch.setattr(smoothquant, "output_error", observed)
    ir.save(mlp(), tmp_path / "model.onnx")
    spec = Int8Spec(smooth=True, reduce_range=reduced)
    prepare(tmp_path, spec, lambda: iter([{"x": normal(1, 7, 32)}]), tmp_path)
    assert seen == {limit}


def test_outliers_are_worth_smoothing_and_even_channels_are_not():
    weight = normal(16, 8)
    sample = sample_of(outliers(64, 16))
    alpha = best_alpha(sample, [weight], max_error_share=0.8)
    assert alpha is not None
    before = output_error(sample, [weight], np.ones(16, np.float32))
    assert output_error(sample, [weight], factors_of(sample, [weight], alpha)) < 0.5 * before
    even = np.sign(normal(64, 16))
    assert best_alpha(sample_of(even), [np.sign(normal(16, 8))], max_error_share=0.8) is None


def block(activation: str = "Relu", residual: bool = True) -> ir.Model:
    """Norm, attention, output, a sum or none, norm, feed-forward: x (batch, tokens, 16)."""
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g1", "e1"], ["n1"], name="norm1"),
        helper.make_node(
            "Attention", ["n1", "wa", "ba"], ["a"], name="heads", domain="com.microsoft", num_heads=2
        ),
        helper.make_node("MatMul", ["a", "wo"], ["o0"], name="out"),
        helper.make_node("Add", ["o0", "bo"], ["o"]),
        helper.make_node("Add", ["o", "n1" if residual else "x"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "g2", "e2"], ["n2"], name="norm2"),
        helper.make_node("MatMul", ["n2", "wu"], ["u0"], name="up"),
        helper.make_node("Add", ["u0", "bu"], ["u"]),
        helper.make_node(activation, ["u"], ["r"]),
        helper.make_node(
            "MatMul" if residual else "Gemm", ["r" if residual else "flat", "wd"], ["y"], name="down"
        ),
    ]
    if not residual:
        nodes.insert(-1, helper.make_node("Reshape", ["r", "shape"], ["flat"]))
    constants = {
        "g1": 1 + 0.1 * normal(16), "e1": normal(16), "wa": normal(16, 48), "ba": normal(48),
        "wo": normal(16, 16), "bo": normal(16), "g2": 1 + 0.1 * normal(16), "e2": normal(16),
        "wu": normal(16, 24), "bu": normal(24), "wd": normal(24, 5), "shape": np.array([-1, 24], np.int64),
    }  # fmt: skip
    constants["g1"][3] = 60
    if residual:
        del constants["shape"]
    made = model_of(nodes, constants, [("x", TensorProto.FLOAT, ["b", "t", 16])], [("y", None)])
    made.opset_imports["com.microsoft"] = 1
    return made


@pytest.mark.parametrize("alpha", [None, 0.5, 1.0])
@pytest.mark.parametrize("activation", ["Relu", "Gelu"])
@pytest.mark.parametrize("residual", [True, False])
def test_the_float_model_stays_what_it_was(tmp_path: Path, residual, activation, alpha):
    model, x = block(activation, residual), normal(3, 7, 16)
    wanted = run(model, tmp_path, x=x)
    batches = [{"x": row[None]} for row in normal(5, 7, 16)]
    found = list(weighted_layers(model.graph))
    used = smooth(
        model, found, tmp_path / "run.onnx", lambda: iter(batches), tmp_path, alpha=alpha, per_channel=True
    )
    assert "heads" in used
    if alpha is not None:
        assert set(used) == {"heads", "out", "up", "down"}
        assert set(used.values()) == {alpha}
    got = run(model, tmp_path, x=x)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def multiplied(model: ir.Model, folder: Path) -> list[str]:
    """The layers that got a node of their own at alpha 0.5."""
    ir.save(model, folder / "m.onnx")
    batches = [{"x": normal(1, 7, 16)}]
    smooth(
        model, list(weighted_layers(model.graph)), folder / "m.onnx", lambda: iter(batches), folder,
        alpha=0.5, per_channel=True,
    )  # fmt: skip
    return [node.name.removesuffix(".divided") for node in model.graph if node.op_type == "Mul"]


def test_what_makes_the_input_takes_the_division_where_it_can(tmp_path: Path):
    # The residual sum reads the first norm too, and a Gelu does not pass factors on.
    assert multiplied(block("Relu", residual=True), tmp_path) == ["heads"]
    assert multiplied(block("Gelu", residual=True), tmp_path) == ["heads", "down"]


def test_weights_that_serve_twice_are_left_alone(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
    ]
    model = model_of(nodes, {"w": normal(16, 16)}, [("x", TensorProto.FLOAT, ["b", 7, 16])], [("y", None)])
    assert multiplied(model, tmp_path) == []
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul"]
