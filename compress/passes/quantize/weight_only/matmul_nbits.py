"""4-bit weights in blocks, multiplied with floating-point activations (`MatMulNBits`): one writer for all methods."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from compress.core.errors import ModelError
from compress.lowering.graph import MS_DOMAIN, add_initializer, attribute, insert_before, replace, tidy
from compress.passes.quantize.embeddings import read_blocks
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, Table
from compress.passes.quantize.weight_only.blocks import Blocks, Floats, pack_nibbles

BITS = 4
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits inside the kernel, which is what makes it fast."""

Blocked = Linear | FusedAttention | Table
BlocksOf = Callable[[Blocked, Floats], Blocks]
"""A layer and its weight, one row an output (of a table: its rows) -> the weight in blocks."""


def quantize_weights(model: ir.Model, chosen: list[Layer], blocks_of: BlocksOf, *, embeddings: bool) -> None:
    """Replace each chosen layer of the graph.

    Args:
        blocks_of: the method; blocks of 4 bits, those of tables may have 8.
        embeddings: whether tables are replaced too.

    Raises:
        ModelError: a table's rows have an odd width, which two values a byte cannot hold.
    """
    graph = model.graph
    for layer in chosen:
        if isinstance(layer, Linear):
            product = _product(graph, layer, blocks_of)
            if layer.bias is not None:
                add = ir.node("Add", [product, layer.bias], name=f"{layer.node.name}.bias")
                product = insert_before(graph, layer.node, add)
            replace(layer.result, product)
        elif isinstance(layer, FusedAttention):
            attend_apart(graph, layer, _product(graph, layer, blocks_of))
        elif isinstance(layer, Table) and embeddings:
            read_blocks(graph, layer, blocks_of(layer, layer.weight))
    tidy(model)


def _product(graph: ir.Graph, layer: Linear | FusedAttention, blocks_of: BlocksOf) -> ir.Value:
    """source @ weight; a width that is no multiple of the block is filled up with zeros, which cost only bytes."""
    inputs_count, outputs_count = layer.shape
    name = layer.weight_value.name
    blocks = blocks_of(layer, layer.weight.T)
    inputs = [
        layer.source,
        add_initializer(graph, f"{name}.int4", pack_nibbles(blocks.values)),
        add_initializer(graph, f"{name}.scale", blocks.scales.reshape(-1)),
    ]
    if blocks.zeros is not None:
        inputs.append(add_initializer(graph, f"{name}.zero", pack_nibbles(blocks.zeros).reshape(-1)))
    attributes = {
        "K": inputs_count,
        "N": outputs_count,
        "bits": BITS,
        "block_size": blocks.block_size,
        "accuracy_level": ACCURACY_LEVEL,
    }
    node = ir.node("MatMulNBits", inputs, attributes, domain=MS_DOMAIN, name=layer.node.name)
    return insert_before(graph, layer.node, node)


def attend_apart(graph: ir.Graph, layer: FusedAttention, product: ir.Value) -> None:
    """`Attention` -> its projections' product (batch, sequence, 3 * width), cut in three, and `MultiHeadAttention`."""
    node, name = layer.node, layer.node.name
    widths = attribute(node, "qkv_hidden_sizes", None) or [layer.shape[1] // 3] * 3
    if len(set(widths)) != 1:
        raise ModelError(
            f"query, key and value have the widths {list(widths)}, which must be equal", where=name
        )
    product.name = f"{name}.qkv.product"
    biased = insert_before(graph, node, ir.node("Add", [product, layer.bias], name=f"{name}.qkv"))
    cut = ir.node("Split", [biased], {"axis": -1, "num_outputs": 3}, num_outputs=3, name=f"{name}.cut")
    insert_before(graph, node, cut)
    kept = [node.attributes[key] for key in ("num_heads", "scale") if key in node.attributes]
    heads = ir.Node(
        MS_DOMAIN, "MultiHeadAttention", [*cut.outputs, None, layer.mask], kept, name=f"{name}.heads"
    )
    replace(node.outputs[0], insert_before(graph, node, heads))
