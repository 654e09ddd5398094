"""Computing the patch embedding of a vision transformer as a matrix product instead of a convolution.

A convolution whose stride equals its kernel size reads every pixel once: it is a matrix product over the patches,
and in that form it can be quantized to integers with the other products of the encoder.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import (
    add_initializer,
    attribute,
    constant,
    insert_before,
    producer_of_type,
    replace_uses,
)

_PATCH_PERM = [0, 2, 4, 1, 3, 5]
"""(n, c, rows, patch height, columns, patch width) -> (n, rows, columns, c, patch height, patch width)."""


def patches_to_matmul(model: ir.Model) -> int:
    """Replace each Conv -> Reshape -> Transpose from patches to tokens (n, patches, width); returns how many.

    Not replaced: convolutions whose patches overlap, leave pixels out or are padded, and images of unknown size.
    """
    graph = model.graph
    replaced = 0
    for node in list(graph):
        if node.op_type != "Transpose" or list(attribute(node, "perm", [])) != [0, 2, 1]:
            continue
        flat = producer_of_type(node.inputs[0], "Reshape")
        convolution = None if flat is None else producer_of_type(flat.inputs[0], "Conv")
        if (
            convolution is None
            or not _flattens(flat, convolution)
            or not _single_consumer_each(flat, convolution)
        ):
            continue
        product = _matmul_tokens(graph, convolution)
        if product is not None:
            replace_uses(node.outputs[0], product)
            replaced += 1
    return replaced


def _matmul_tokens(graph: ir.Graph, convolution: ir.Node) -> ir.Value | None:
    """Tokens (n, rows * columns, width) in place of the convolution's feature maps (n, width, rows, columns)."""
    pixels, kernel = convolution.inputs[0], constant(convolution.inputs[1])
    image_size = None if pixels is None or pixels.shape is None else _static_size(pixels.shape)
    if pixels is None or kernel is None or kernel.ndim != 4 or image_size is None:
        return None
    width, channels, patch_height, patch_width = kernel.shape
    if list(attribute(convolution, "strides", [1, 1])) != [
        patch_height,
        patch_width,
    ] or not _has_default_settings(convolution):
        return None
    rows, columns = image_size[1] // patch_height, image_size[2] // patch_width
    if image_size != (channels, rows * patch_height, columns * patch_width):
        return None
    name = convolution.name or "patches"

    def reshaped(value: ir.Value, shape: list[int], step: str) -> ir.Value:
        target = add_initializer(graph, f"{name}.{step}.shape", np.array(shape, np.int64))
        return insert_before(graph, convolution, ir.node("Reshape", [value, target], name=f"{name}.{step}"))

    blocks = reshaped(pixels, [-1, channels, rows, patch_height, columns, patch_width], "cut")
    permuted = insert_before(
        graph, convolution, ir.node("Transpose", [blocks], {"perm": _PATCH_PERM}, name=f"{name}.apart")
    )
    tokens = reshaped(permuted, [-1, rows * columns, channels * patch_height * patch_width], "tokens")
    weight = add_initializer(graph, f"{name}.matrix", kernel.reshape(width, -1).T)
    product = insert_before(graph, convolution, ir.node("MatMul", [tokens, weight], name=name))
    product.shape = ir.Shape([pixels.shape[0], rows * columns, width])
    bias = convolution.inputs[2] if len(convolution.inputs) > 2 else None
    if bias is None:
        return product
    product.name = f"{name}.product"
    total = insert_before(graph, convolution, ir.node("Add", [product, bias], name=f"{name}.bias"))
    total.shape = product.shape
    return total


def _has_default_settings(convolution: ir.Node) -> bool:
    return (
        attribute(convolution, "group", 1) == 1
        and attribute(convolution, "auto_pad", "NOTSET") == "NOTSET"
        and not any(attribute(convolution, "pads", []))
        and all(step == 1 for step in attribute(convolution, "dilations", []))
    )


def _static_size(shape: ir.Shape) -> tuple[int, ...] | None:
    """Return channels, height and width; None if one of them is dynamic."""
    sizes = [axis for axis in list(shape)[1:] if isinstance(axis, int)]
    return tuple(sizes) if len(shape) == 4 and len(sizes) == 3 else None


def _flattens(flat: ir.Node, convolution: ir.Node) -> bool:
    """Whether a reshape flattens rows and columns: (n, width, rows, columns) -> (n, width, rows * columns)."""
    after, before = flat.outputs[0].shape, convolution.outputs[0].shape
    return after is not None and before is not None and len(after) == 3 and after[1] == before[1]


def _single_consumer_each(*nodes: ir.Node) -> bool:
    return all(
        len(list(node.outputs[0].uses())) == 1 and not node.outputs[0].is_graph_output() for node in nodes
    )
