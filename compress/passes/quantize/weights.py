"""The constants of layers as they are now, after other steps changed them, and how they are changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.lowering.graph import attribute, constant
from compress.passes.quantize.layers import Convolution, FusedAttention, Linear

Floats = NDArray[np.float32]


def one_use(value: ir.Value) -> bool:
    """Whether a constant serves one layer alone, so that it may be changed."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def weight_now(layer: Linear | FusedAttention | Convolution) -> Floats:
    """The weight in the graph: (inputs, outputs), or (outputs, inputs / groups, ...) of a convolution."""
    array = constant(layer.weight_value)
    assert array is not None
    return np.asarray(array.T if _transposed(layer) else array, np.float32)


def set_weight(layer: Linear | FusedAttention | Convolution, weight: Floats) -> None:
    """Put a weight, laid out as `weight_now` gives it, in the place of the layer's."""
    set_constant(layer.weight_value, weight.T if _transposed(layer) else weight)


def set_constant(value: ir.Value, array: NDArray[np.float32]) -> None:
    """Let a constant hold other numbers."""
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)


def _transposed(layer: Linear | FusedAttention | Convolution) -> bool:
    return isinstance(layer, Linear) and bool(attribute(layer.node, "transB", 0))
