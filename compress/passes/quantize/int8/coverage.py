"""Count which products run in integers, in the session's optimized graph instead of the file."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.lowering.files import write_optimized

_FLOAT = frozenset(
    {"MatMul", "FusedMatMul", "TransposeMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "Attention"}
)
_INTEGER = frozenset(
    {
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearMatMul",
        "QGemm",
        "QAttention",
        "ConvInteger",
        "QLinearConv",
    }
)
_WEIGHT_ONLY = frozenset({"MatMulNBits"})
_DISABLED_OPTIMIZERS = ("NchwcTransformer",)
"""Repacks the weights of float convolutions under unrecognizable names."""
_KEEPS_CONSTANT = frozenset({"DequantizeLinear", "Cast", "Transpose", "Identity", "Reshape"})


@dataclass(frozen=True)
class ProductCounts:
    """Matrix products and convolutions with a constant weight.

    `integer` counts integer products, `weight_only` float products with block-quantized weights; `float_names` holds
    the names of float products, including those whose weight is dequantized at every call.
    """

    integer: int
    weight_only: int
    float_names: tuple[str, ...]


def count_products(path: Path, allowed: Collection[str] = ()) -> ProductCounts:
    """Count the products in the optimized graph of a session over `path`.

    Args:
        path: an ONNX file.
        allowed: names of weights that may stay in float; their products are not in `floating`.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".optimized-") as folder:
        optimized = Path(folder) / "model.onnx"
        write_optimized(path, optimized, hardware_specific=True, without=_DISABLED_OPTIMIZERS)
        model = onnx.load(str(optimized), load_external_data=False)
    return count_in_graph(model.graph, frozenset(allowed))


def count_in_graph(graph: onnx.GraphProto, allowed: frozenset[str]) -> ProductCounts:
    """Count the products of a graph."""
    origin = {tensor.name: tensor.name for tensor in graph.initializer}
    integer = weight_only = 0
    floating = []
    for node in graph.node:
        if node.op_type in _KEEPS_CONSTANT and node.input and node.input[0] in origin:
            # A value derived from a constant alone is still a constant.
            origin.update(dict.fromkeys(node.output, origin[node.input[0]]))
        weights = [origin[name] for name in node.input[:2] if name in origin]
        if not weights:
            # QLinearMatMul, QLinearConv, QGemm: a, a_scale, a_zero, weight.
            weights = (
                [origin[name] for name in node.input[3:4] if name in origin]
                if node.op_type in _INTEGER
                else []
            )
        if not weights:
            continue
        if node.op_type in _INTEGER:
            integer += 1
        elif node.op_type in _WEIGHT_ONLY:
            weight_only += 1
        elif node.op_type in _FLOAT and not any(_same_weight(name, allowed) for name in weights):
            floating.append(node.name or node.op_type)
    return ProductCounts(integer, weight_only, tuple(floating))


def _same_weight(name: str, allowed: frozenset[str]) -> bool:
    """Whether an initializer is one of `allowed`, also after onnxruntime appended to its name."""
    return any(name == one or name.startswith(f"{one}_") for one in allowed)
