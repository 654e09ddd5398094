"""Dynamic INT8 quantization: activation ranges are computed at run time."""

from __future__ import annotations

import onnx_ir as ir

from compress.lowering.graph import tidy
from compress.passes.quantize.embeddings import quantize_rows
from compress.passes.quantize.int8.affine import INT8_LIMIT
from compress.passes.quantize.int8.operators import QuantizedWeights, quantize_attention, quantize_linear
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, Table


def quantize_dynamic(
    model: ir.Model,
    layers: list[Layer],
    *,
    per_channel: bool,
    embeddings: bool,
    table_bits: int = 8,
    limit: int = INT8_LIMIT,
) -> None:
    """Replace each chosen layer of the graph by its dynamically quantized form.

    Args:
        limit: the largest integer of a weight.
    """
    graph = model.graph
    weights = QuantizedWeights(graph, per_channel, limit)
    for layer in layers:
        if isinstance(layer, Linear):
            quantize_linear(graph, layer, weights)
        elif isinstance(layer, FusedAttention):
            quantize_attention(graph, layer, weights)
        elif isinstance(layer, Table) and embeddings:
            quantize_rows(graph, layer, per_channel=per_channel, bits=table_bits)
    tidy(model)
