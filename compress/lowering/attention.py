"""Fusing self-attention into one operator, with query, key and value in one product and no reshapes.

The latency of a small model depends on its number of operators rather than on arithmetic: one `Attention`
(`QAttention` once quantized) replaces fifteen. Heads are counted from the weights, so layers of a pruned model may
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compress.lowering.export import MASK
from compress.lowering.graph import (
    MS_DOMAIN,
    Array,
    add_initializer,
    attribute,
    constant,
    insert_before,
    producer_of_type,
    replace_uses,
    scalar,
)

_SPLIT_HEADS_PERM = [0, 2, 1, 3]
_SPLIT_HEADS_TRANSPOSED_PERM = [0, 2, 3, 1]


@dataclass(frozen=True)
class Projection:
    """x (batch, sequence, hidden) @ weight (hidden, heads * head_size) + bias, split into heads.

    `constants` are the graph values of weight and bias; the bias is None if there is none.
    """

    name: str
    source: ir.Value
    weight: Array
    bias: Array
    head_size: int
    constants: tuple[ir.Value | None, ir.Value | None]


def fuse_attention(model: ir.Model) -> int:
    """Replace each softmax attention over one input by `com.microsoft.Attention`; returns how many were replaced.

    Only attention of the form softmax(q k^T * scale + mask) v with projections by constant weights is replaced. The
    mask is the additive one that `export` prepares, or there is none: images have no padding.
    """
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == MASK), None)
    int_mask: ir.Value | None = None
    fused_weights = _FusedWeights(graph)
    fused = 0
    for node in list(graph):
        if node.op_type != "Softmax":
            continue
        found = _match(node, mask)
        if found is None:
            continue
        projections, scale, result = found
        if int_mask is None and mask is not None:
            # The kernel reads an int32 mask (batch, sequence): 1 is kept, 0 is masked.
            cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32}, name="attention_mask.int32")
            int_mask = insert_before(graph, next(iter(graph)), cast)
        replace_uses(
            result, insert_before(graph, node, _attention(fused_weights, projections, scale, int_mask))
        )
        fused += 1
    return fused


class _FusedWeights:
    """Concatenated weights and biases; layers that share weights share the result, but not their names."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.cache: dict[tuple[object, ...], ir.Value] = {}
        self.names: set[str] = set()

    def unique_name(self, base: str) -> str:
        """Return a name that is unique among the fused layers."""
        unique = base if base not in self.names else f"{base}.{len(self.names)}"
        self.names.add(unique)
        return unique

    def constant(self, name: str, parts: Sequence[ir.Value | None], arrays: Sequence[Array]) -> ir.Value:
        """Return the concatenation of arrays (..., outputs), which are the graph values `parts`, as an initializer."""
        key = (*map(id, parts), *(array.shape for array in arrays))
        if key not in self.cache:
            self.cache[key] = add_initializer(self.graph, name, np.concatenate(arrays, axis=-1))
        return self.cache[key]


def _attention(
    fused_weights: _FusedWeights, projections: tuple[Projection, ...], scale: float, mask: ir.Value | None
) -> ir.Node:
    query = projections[0]
    width = query.weight.shape[1]
    heads = width // query.head_size
    # `bert.encoder.layer.0.attention.self.query` belongs to `bert.encoder.layer.0.attention.self`. If the query is
    # factored, only its second factor is fused; the first stays a separate product.
    name = fused_weights.unique_name(query.name.removesuffix(".second").rpartition(".")[0] or query.name)
    attributes: dict[str, object] = {"num_heads": heads, "scale": scale}
    if width != query.weight.shape[0]:
        attributes["qkv_hidden_sizes"] = [projection.weight.shape[1] for projection in projections]
    weights, biases = zip(*(one.constants for one in projections), strict=True)
    inputs = [
        query.source,
        fused_weights.constant(f"{name}.qkv.weight", weights, [one.weight for one in projections]),
        fused_weights.constant(f"{name}.qkv.bias", biases, [one.bias for one in projections]),
        *([] if mask is None else [mask]),
    ]
    return ir.node("Attention", inputs, attributes, domain=MS_DOMAIN, name=name)


def _match(softmax: ir.Node, mask: ir.Value | None) -> tuple[tuple[Projection, ...], float, ir.Value] | None:
    """Return the query, key and value projections, the scale, and the result value (batch, sequence, width)."""
    scores = _scores_without_mask(softmax.inputs[0], mask)
    if scores is None or attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    scale, product = _match_scale(scores)
    context = _only_consumer(softmax.outputs[0], "MatMul")
    if product is None or context is None or context.inputs[0] is not softmax.outputs[0]:
        return None
    projections = (
        _match_projection(product.inputs[0], _SPLIT_HEADS_PERM),
        _match_projection(product.inputs[1], _SPLIT_HEADS_TRANSPOSED_PERM),
        _match_projection(context.inputs[1], _SPLIT_HEADS_PERM),
    )
    query, key, value = projections
    if query is None or key is None or value is None:
        return None
    same_input = query.source is key.source is value.source
    same_shape = query.weight.shape == key.weight.shape == value.weight.shape
    same_heads = query.head_size == key.head_size == value.head_size
    transpose = _only_consumer(context.outputs[0], "Transpose")
    if not (same_input and same_shape and same_heads) or transpose is None:
        return None
    flat = _only_consumer(transpose.outputs[0], "Reshape")
    if list(attribute(transpose, "perm", [])) != _SPLIT_HEADS_PERM or flat is None:
        return None
    return (query, key, value), scale, flat.outputs[0]


def _match_scale(scores: ir.Value | None) -> tuple[float, ir.Node | None]:
    """Match `q k^T`, optionally multiplied or divided by a constant."""
    node = producer_of_type(scores, "Mul", "Div")
    if node is None:
        return 1.0, producer_of_type(scores, "MatMul")
    factor = scalar(node.inputs[1])
    if factor is None:
        return 1.0, None
    return (factor if node.op_type == "Mul" else 1.0 / factor), producer_of_type(node.inputs[0], "MatMul")


def _match_projection(value: ir.Value | None, order: list[int]) -> Projection | None:
    """Match Transpose(Reshape(x @ weight + bias)) with head_size as the last axis of the reshape."""
    transpose = producer_of_type(value, "Transpose")
    if transpose is None or list(attribute(transpose, "perm", [])) != order:
        return None
    reshape = producer_of_type(transpose.inputs[0], "Reshape")
    head_size = None if reshape is None else _last_axis(reshape.inputs[1])
    if reshape is None:
        return None
    add = producer_of_type(reshape.inputs[0], "Add")
    product = producer_of_type(reshape.inputs[0], "MatMul")
    bias_value: ir.Value | None = None
    if add is not None:
        for product_index, bias_index in ((0, 1), (1, 0)):
            if (
                producer_of_type(add.inputs[product_index], "MatMul")
                and constant(add.inputs[bias_index]) is not None
            ):
                product, bias_value = (
                    producer_of_type(add.inputs[product_index], "MatMul"),
                    add.inputs[bias_index],
                )
    if product is None or head_size is None or head_size < 1:
        return None
    weight, source = constant(product.inputs[1]), product.inputs[0]
    if weight is None or source is None or weight.ndim != 2 or weight.shape[1] % int(head_size):
        return None
    bias = constant(bias_value)
    if bias is None:
        bias = np.zeros(weight.shape[1], weight.dtype)
    if bias.shape != (weight.shape[1],):
        return None
    constants = product.inputs[1], bias_value
    return Projection(product.name or "", source, weight, bias, int(head_size), constants)


def _last_axis(shape: ir.Value | None) -> float | None:
    """Return the last of four axes of a reshape, whose shape is a constant or a Concat."""
    sizes = constant(shape)
    if sizes is not None:
        return float(sizes[3]) if sizes.shape == (4,) else None
    concat = producer_of_type(shape, "Concat")
    return scalar(concat.inputs[3]) if concat is not None and len(concat.inputs) == 4 else None


def _scores_without_mask(value: ir.Value | None, mask: ir.Value | None) -> ir.Value | None:
    """Return the scores before the model's mask is added to them; None if anything else is added."""
    addition = producer_of_type(value, "Add")
    if addition is None:
        return value if mask is None else None
    for scores, added in (addition.inputs, reversed(addition.inputs)):
        if _is_zero_mask(added) if mask is None else _is_additive(added, mask):
            return scores
    return None


def _is_zero_mask(value: ir.Value | None) -> bool:
    """Whether `value` is 0 where a constant is true, and the constant is true everywhere."""
    choice = producer_of_type(value, "Where")
    condition = None if choice is None else producer_of_type(choice.inputs[0], "Expand")
    if choice is None or condition is None:
        return False
    everywhere, zeros = constant(condition.inputs[0]), constant(choice.inputs[1])
    return everywhere is not None and bool(everywhere.all()) and zeros is not None and not zeros.any()


def _is_additive(value: ir.Value | None, mask: ir.Value) -> bool:
    """Whether `value` is (1 - mask) * lowest, as `export` prepares it."""
    product = producer_of_type(value, "Mul")
    inverse = None if product is None else producer_of_type(product.inputs[0], "Sub")
    cast = None if inverse is None else producer_of_type(inverse.inputs[1], "Cast")
    wide = None if cast is None else producer_of_type(cast.inputs[0], "Unsqueeze")
    return wide is not None and wide.inputs[0] is mask


def _only_consumer(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the only consumer of `value`, if it is of this operator type."""
    consumers = [use.node for use in value.uses()]
    return consumers[0] if len(consumers) == 1 and consumers[0].op_type == op_type else None
