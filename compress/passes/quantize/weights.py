"""Change the constants of layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.passes.quantize.layers import Convolution, MatMulLayer

Floats = NDArray[np.float32]


def has_single_use(value: ir.Value) -> bool:
    """Whether a constant has a single use, so that it may be changed."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def set_weight(layer: MatMulLayer | Convolution, weight: Floats) -> None:
    """Replace the weight of a layer, in the layer's storage layout."""
    set_constant(layer.weight_value, weight.T if layer.transposed else weight)


def set_constant(value: ir.Value, array: NDArray[np.float32]) -> None:
    """Replace the values of a constant."""
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
