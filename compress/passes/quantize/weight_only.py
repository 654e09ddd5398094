"""4-bit weights in blocks, multiplied with floating-point activations (`MatMulNBits`)."""

from __future__ import annotations

import onnx_ir as ir

from compress.errors import ModelError
from compress.lowering.graph import MS_DOMAIN, add_initializer, attribute, insert_before, replace, tidy
from compress.passes.quantize.blocks import pack_nibbles, quantize_blocks
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, Table
from compress.passes.quantize.tables import quantize_rows, read_blocks

BITS = 4
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits inside the kernel, which is what makes it fast."""


def quantize_weights(
    model: ir.Model,
    chosen: list[Layer],
    *,
    block_size: int,
    symmetric: bool,
    embeddings: bool,
    table_bits: int = BITS,
) -> None:
    """Replace each chosen layer of the graph.

    Raises:
        ModelError: a table's rows have an odd width, which two values a byte cannot hold.
    """
    graph = model.graph
    for layer in chosen:
        if isinstance(layer, Linear):
            product = _product(graph, layer, layer.source, block_size, symmetric)
            if layer.bias is not None:
                add = ir.node("Add", [product, layer.bias], name=f"{layer.node.name}.bias")
                product = insert_before(graph, layer.node, add)
            replace(layer.result, product)
        elif isinstance(layer, FusedAttention):
            _attend(graph, layer, block_size, symmetric)
        elif isinstance(layer, Table) and embeddings:
            if table_bits == BITS:
                read_blocks(graph, layer, quantize_blocks(layer.rows, block_size, BITS, symmetric))
            else:
                quantize_rows(graph, layer, per_channel=True, bits=table_bits)
    tidy(model)


def _product(
    graph: ir.Graph, layer: Linear | FusedAttention, source: ir.Value, block_size: int, symmetric: bool
) -> ir.Value:
    """source @ weight; a width that is no multiple of the block is filled up with zeros, which cost only bytes."""
    inputs_count, outputs_count = layer.weight.shape
    name = layer.weight_value.name
    blocks = quantize_blocks(layer.weight.T, block_size, BITS, symmetric)
    inputs = [
        source,
        add_initializer(graph, f"{name}.int4", pack_nibbles(blocks.values)),
        add_initializer(graph, f"{name}.scale", blocks.scales.reshape(-1)),
    ]
    if blocks.zeros is not None:
        inputs.append(add_initializer(graph, f"{name}.zero", pack_nibbles(blocks.zeros).reshape(-1)))
    attributes = {
        "K": inputs_count,
        "N": outputs_count,
        "bits": BITS,
        "block_size": block_size,
        "accuracy_level": ACCURACY_LEVEL,
    }
    node = ir.node("MatMulNBits", inputs, attributes, domain=MS_DOMAIN, name=layer.node.name)
    return insert_before(graph, layer.node, node)


def _attend(graph: ir.Graph, layer: FusedAttention, block_size: int, symmetric: bool) -> None:
    """`Attention` -> one product for query, key and value, cut in three, and `MultiHeadAttention`."""
    node, name = layer.node, layer.node.name
    widths = attribute(node, "qkv_hidden_sizes", None) or [layer.weight.shape[1] // 3] * 3
    product = _product(graph, layer, layer.source, block_size, symmetric)
    product.name = f"{name}.qkv.product"
    biased = insert_before(graph, node, ir.node("Add", [product, layer.bias], name=f"{name}.qkv"))
    if len(set(widths)) == 1:
        cut = ir.node("Split", [biased], {"axis": -1, "num_outputs": 3}, num_outputs=3, name=f"{name}.cut")
    else:
        raise ModelError(
            f"query, key and value have the widths {list(widths)}, which must be equal", where=name
        )
    insert_before(graph, node, cut)
    kept = [node.attributes[key] for key in ("num_heads", "scale") if key in node.attributes]
    heads = ir.Node(
        MS_DOMAIN, "MultiHeadAttention", [*cut.outputs, None, layer.mask], kept, name=f"{name}.heads"
    )
    replace(node.outputs[0], insert_before(graph, node, heads))
