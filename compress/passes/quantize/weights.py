"""How the constants of layers are changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.passes.quantize.layers import Convolution, FusedAttention, Linear

Floats = NDArray[np.float32]


def one_use(value: ir.Value) -> bool:
    """Whether a constant serves one layer alone, so that it may be changed."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def set_weight(layer: Linear | FusedAttention | Convolution, weight: Floats) -> None:
    """Put a weight in the place of the layer's, laid out as that is."""
    set_constant(layer.weight_value, weight.T if layer.transposed else weight)


def set_constant(value: ir.Value, array: NDArray[np.float32]) -> None:
    """Let a constant hold other numbers."""
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
