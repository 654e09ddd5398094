"""Conversion to 16-bit floating point: weight storage only, or the operators too."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from compress.core.disk.files import replacing
from compress.lowering.graph import constant

HALF_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_MAX_FP16 = float(np.finfo(np.float16).max)


def store_in_half(
    model: ir.Model, numbers: Literal["fp16", "bf16"], only: Collection[str] | None = None
) -> int:
    """Store every weight of two or more axes in 16 bits, followed by a `Cast` to float32; return how many.

    The session folds such a `Cast` when it loads the file, so arithmetic and speed are those of FP32. Vectors (biases,
    norms) and weights with a value outside the FP16 range stay unchanged.

    Args:
        only: names of the weights that may be converted; None: all.
    """
    graph, num_stored = model.graph, 0
    first = next(iter(graph))
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.ndim < 2 or value.is_graph_output():
            continue
        too_large = numbers == "fp16" and np.abs(array).max(initial=0.0) > _MAX_FP16
        if too_large or (only is not None and value.name not in only):
            continue
        name = value.name
        value.name = f"{name}.{numbers}"
        half = ir.tensor(array.astype(HALF_TYPES[numbers].numpy()), name=value.name)
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.cast")
        restored = cast.outputs[0]
        restored.name = name
        value.replace_all_uses_with(restored)
        cast.replace_input_with(0, value)
        value.const_value, value.type, value.shape = half, ir.TensorType(half.dtype), half.shape
        graph.insert_before(first, cast)
        num_stored += 1
    return num_stored


def compute_in_fp16(source: Path, target: Path) -> None:
    """Write a copy of a model with FP16 operators; graph inputs and outputs keep their types.

    Uses the converter of onnxruntime, which leaves operators without an FP16 implementation in FP32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with replacing(target) as temporary:
        onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(temporary))
