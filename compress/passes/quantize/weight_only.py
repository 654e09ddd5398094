"""4-bit weights in blocks, multiplied with floating-point activations (`MatMulNBits`)."""

from __future__ import annotations

import onnx_ir as ir

from compress.errors import ModelError
from compress.lowering.graph import MS_DOMAIN, add_initializer, attribute, insert_before, replace, tidy
from compress.passes.quantize.blocks import Blocks, Bytes, pack_nibbles, quantize_blocks
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, Table

BITS = 4
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits inside the kernel, which is what makes it fast."""


def quantize_weights(
    model: ir.Model, chosen: list[Layer], *, block_size: int, symmetric: bool, embeddings: bool
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
            _read_rows(graph, layer, block_size, symmetric)
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


def _read_rows(graph: ir.Graph, table: Table, block_size: int, symmetric: bool) -> None:
    """`Gather` -> `GatherBlockQuantized`: rows are dequantized after they are read."""
    width, name = table.rows.shape[1], table.rows_value.name
    if width % 2:
        raise ModelError(
            f"its rows have {width} values, an odd number that 4-bit storage cannot hold",
            where=table.node.name,
            hint=f"Leave it floating: quantize: {{exclude: [{table.node.name}]}}",
        )
    blocks = quantize_blocks(table.rows, block_size, BITS, symmetric)
    inputs = [
        add_initializer(graph, f"{name}.int4", pack_nibbles(_flat(blocks))),
        table.node.inputs[1],
        add_initializer(graph, f"{name}.scale", blocks.scales),
    ]
    if blocks.zeros is not None:
        inputs.append(add_initializer(graph, f"{name}.zero", pack_nibbles(blocks.zeros)))
    attributes = {"bits": BITS, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
    read = ir.node("GatherBlockQuantized", inputs, attributes, domain=MS_DOMAIN, name=table.node.name)
    replace(table.node.outputs[0], insert_before(graph, table.node, read))


def _flat(blocks: Blocks) -> Bytes:
    """Rows without what fills their last block: uint8 (rows, width)."""
    return blocks.values.reshape(len(blocks.values), -1)[:, : blocks.width]
