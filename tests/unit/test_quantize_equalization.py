"""Cross-layer equalisation: the factors by hand, the ranges that come out, and that the float model stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from compress.passes.quantize.int8.cross_layer_equalization import (
    equalizable_pairs,
    equalize,
    equalizing_factors,
    input_ranges,
    scale_inputs,
)
from compress.passes.quantize.layers import weighted_layers
from compress.runtimes.runner import open_session
from tests.unit.test_quantize_convolutions import X, conv, error, graph_of, normal, quantized


def test_factors_by_hand():
    np.testing.assert_allclose(equalizing_factors(np.float32([8, 0, 1]), np.float32([2, 5, 4])), [2, 1, 0.5])


def test_input_channels_of_a_grouped_kernel():
    kernel = np.zeros((4, 2, 1, 1), np.float32)
    kernel[0, 0], kernel[1, 1], kernel[2, 0], kernel[3, 1] = 1, -2, 3, 4
    np.testing.assert_array_equal(input_ranges(kernel, groups=2), [1, 2, 3, 4])
    scaled = scale_inputs(kernel, 2, np.float32([1, 10, 100, 1000]))
    assert [scaled[0, 0], scaled[1, 1], scaled[2, 0], scaled[3, 1]] == [1, -20, 300, 4000]


def uneven(*shape: int) -> np.ndarray:
    """A kernel whose outputs' ranges differ a thousandfold."""
    spread = np.logspace(-1.5, 1.5, shape[0]).astype(np.float32)
    return np.asarray(normal(*shape) * spread.reshape(-1, *[1] * (len(shape) - 1)), np.float32)


def chain(between: list[Any], groups: int = 1) -> ir.Model:
    """conv, what lies between, conv, Relu, conv."""
    nodes = [
        conv("x", "w1", "a", "b1"),
        *between,
        conv("m", "w2", "b", group=groups),
        helper.make_node("Relu", ["b"], ["r"]),
        conv("r", "w3", "y", "b3"),
    ]
    return graph_of(
        nodes, w1=uneven(8, 8, 3, 3), b1=normal(8), w2=uneven(8, 8 // groups, 3, 3), w3=normal(4, 8, 3, 3),
        b3=normal(4), zero=np.float32(0).reshape(()), six=np.float32(6).reshape(()),
    )  # fmt: skip


BETWEEN = {
    "relu": [helper.make_node("Relu", ["a"], ["m"])],
    "leaky, pooled": [
        helper.make_node("LeakyRelu", ["a"], ["l"], alpha=0.1),
        helper.make_node("MaxPool", ["l"], ["m"], kernel_shape=[2, 2]),
    ],
    "nothing": [helper.make_node("Identity", ["a"], ["m"])],
}


def outputs(model: ir.Model, folder: Path) -> np.ndarray:
    ir.save(model, folder / "m.onnx")
    return np.asarray(open_session(str(folder / "m.onnx")).run(None, {"x": X})[0])


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("between", list(BETWEEN))
def test_the_float_model_stays_and_ranges_meet(tmp_path: Path, between: str, groups: int):
    model = chain(BETWEEN[between], groups)
    wanted = outputs(model, tmp_path)
    assert equalize(list(weighted_layers(model.graph))) == 2
    np.testing.assert_allclose(
        outputs(model, tmp_path), wanted, rtol=1e-4, atol=1e-5 * float(np.abs(wanted).max())
    )
    first, second, third = (np.asarray(layer.weight) for layer in weighted_layers(model.graph))
    for one, other, count in ((first, second, groups), (second, third, 1)):
        made = np.abs(one.reshape(len(one), -1)).max(axis=1)
        np.testing.assert_allclose(made, input_ranges(other, count), rtol=0.01)


def test_relu6_and_values_with_two_readers_are_left_alone():
    clipped = chain([helper.make_node("Clip", ["a", "zero", "six"], ["m"])])
    assert [pair.first.node.name for pair in equalizable_pairs(list(weighted_layers(clipped.graph)))] == ["b"]
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Relu", ["a"], ["r"]),
        conv("r", "w2", "b"),
        helper.make_node("Add", ["r", "b"], ["y"]),
    ]
    branching = graph_of(nodes, w1=uneven(8, 8, 3, 3), w2=normal(8, 8, 3, 3))
    assert equalize(list(weighted_layers(branching.graph))) == 0


def test_equalizing_restores_what_one_scale_a_weight_destroys(tmp_path: Path):
    """Small outputs that large weights read: one scale for the whole weight rounds them all to zero."""
    spread = np.logspace(-2, 2, 8).astype(np.float32)
    down, up = (factors.reshape(-1, 1, 1, 1) for factors in (spread, 1 / spread))
    first, second = normal(8, 8, 3, 3), normal(8, 8, 3, 3)
    constants = {"w1": first * down, "b1": normal(8) * spread, "w2": second * up.reshape(1, -1, 1, 1)}
    nodes = [conv("x", "w1", "a", "b1"), *BETWEEN["relu"], conv("m", "w2", "y")]
    errors = []
    for equal in (False, True):
        model = graph_of(nodes, **constants)
        if equal:
            equalize(list(weighted_layers(model.graph)))
        errors.append(error(*quantized(model, tmp_path, per_channel=False)[1:]))
    assert errors[0] > 0.2
    assert errors[1] < 0.05
