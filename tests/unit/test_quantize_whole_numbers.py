"""INT8 of graphs in which sizes, indices and masks flow beside the floats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compress.core.errors import ModelError
from compress.passes.quantize.calibration.activation_capture import capture_activations
from tests.draws import generator
from tests.unit.test_quantize_convolutions import conv, error, graph_of, quantized

NODE = helper.make_node
RANDOM = generator(1)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape, scale=0.3).astype(np.float32)


HEAD = [NODE("GlobalAveragePool", ["last"], ["g"]), NODE("Flatten", ["g"], ["y"])]
TWO = {"w1": normal(8, 8, 3, 3), "w2": normal(8, 8, 3, 3)}


def whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


RESIZED = [
    conv("x", "w1", "a"),
    NODE("Relu", ["a"], ["r"]),
    NODE("MaxPool", ["r"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
    NODE("Shape", ["r"], ["shape"]),
    NODE("Slice", ["shape", "two", "four"], ["size"]),
    NODE("Shape", ["small"], ["small_shape"]),
    NODE("Slice", ["small_shape", "zero", "two"], ["start"]),
    NODE("Concat", ["start", "size"], ["sizes"], axis=0),
    NODE("Resize", ["small", "", "", "sizes"], ["grown"], mode="nearest"),
    NODE("Concat", ["r", "grown"], ["both"], axis=1),
    conv("both", "w3", "last"),
    *HEAD,
]
"""F.interpolate(size=x.shape[-2:]) and the skip of a U-Net."""

MASKED = [
    conv("x", "w1", "a"),
    NODE("Relu", ["a"], ["r"]),
    NODE("Shape", ["r"], ["shape"]),
    NODE("Gather", ["shape", "third"], ["height"], axis=0),
    NODE("Squeeze", ["height"], ["h"]),
    NODE("Range", ["start", "h", "step"], ["places"]),
    NODE("Add", ["places", "one"], ["next"]),
    NODE("Mul", ["next", "one"], ["more"]),
    NODE("Unsqueeze", ["more", "zero"], ["row"]),
    NODE("Unsqueeze", ["more", "one"], ["column"]),
    NODE("Greater", ["row", "column"], ["later"]),
    NODE("Where", ["later", "infinite", "nought"], ["mask"]),
    NODE("Transpose", ["r"], ["turned"], perm=[0, 1, 3, 2]),
    NODE("MatMul", ["r", "turned"], ["scores"]),
    NODE("Add", ["scores", "mask"], ["masked"]),
    NODE("Softmax", ["masked"], ["weights"], axis=-1),
    NODE("MatMul", ["weights", "r"], ["mixed"]),
    NODE("Add", ["mixed", "r"], ["sum"]),
    conv("sum", "w2", "last"),
    *HEAD,
]
"""Attention with a causal mask of -inf, as long as the map is high."""

TILED = [
    conv("x", "w1", "a"),
    NODE("Relu", ["a"], ["r"]),
    NODE("Shape", ["r"], ["shape"]),
    NODE("ConstantOfShape", ["shape"], ["zeros"]),
    NODE("Expand", ["half", "shape"], ["halves"]),
    NODE("Add", ["zeros", "halves"], ["level"]),
    NODE("Greater", ["r", "level"], ["high"]),
    NODE("Cast", ["high"], ["switch"], to=TensorProto.FLOAT),
    NODE("Mul", ["r", "switch"], ["passed"]),
    NODE("Where", ["high", "passed", "zeros"], ["chosen"]),
    NODE("Cast", ["chosen"], ["short"], to=TensorProto.FLOAT16),
    NODE("Mul", ["short", "short_two"], ["doubled"]),
    NODE("Cast", ["doubled"], ["long"], to=TensorProto.FLOAT),
    NODE("Tile", ["long", "twice"], ["tiled"]),
    NODE("Concat", ["tiled"], ["joined"], axis=1),
    conv("joined", "w3", "last"),
    *HEAD,
]
"""Constants of a shape that is computed, a boolean mask, and a detour through 16 bits."""


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (RESIZED, {"w3": normal(8, 16, 3, 3), "zero": whole(0), "two": whole(2), "four": whole(4)}),
        (
            MASKED,
            {
                "third": whole(2),
                "start": np.int64(0).reshape(()),
                "step": np.int64(1).reshape(()),
                "zero": whole(0),
                "one": whole(1),
                "infinite": np.float32(-np.inf).reshape(()),
                "nought": np.float32(0).reshape(()),
            },
        ),
        (
            TILED,
            {
                "w3": normal(8, 16, 3, 3),
                "half": np.float32([0.5]),
                "twice": whole(1, 2, 1, 1),
                "short_two": np.float16(2).reshape(()),
            },
        ),
    ],
    ids=["resized", "masked", "tiled"],
)
def test_sizes_indices_and_masks_stay_what_they_are(
    nodes: Sequence[Any], constants: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    found, got, wanted = quantized(graph_of(nodes, **{**TWO, **constants}), tmp_path)
    assert found.count("QLinearConv") == 2
    assert error(got, wanted) < 0.05


def test_only_what_may_be_no_float_is_left_out(tmp_path: Path) -> None:
    model = graph_of([NODE("Shape", ["x"], ["s"]), NODE("Relu", ["x"], ["y"])])
    ir.save(model, tmp_path / "model.onnx")
    batch = {"x": np.ones((1, 8, 6, 6), np.float32)}
    (seen,) = capture_activations(
        tmp_path / "model.onnx", ["x", "s", "y"], iter([batch]), tmp_path, optional={"s"}
    )
    assert sorted(seen) == ["x", "y"]
    with pytest.raises(ModelError) as caught:
        next(capture_activations(tmp_path / "model.onnx", ["s"], iter([batch]), tmp_path))
    assert (caught.value.code, caught.value.where) == ("not-finite", "quantize")
