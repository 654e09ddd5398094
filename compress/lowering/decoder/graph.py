"""A decoder as an ONNX graph with a key-value cache and grouped-query attention.

Inputs, besides `past_key_values.{i}.key` and `.value` float32 (batch, groups, past, head size): `input_ids` int64
(batch, new tokens); `attention_mask` int64 (batch, past + new tokens), 1 for a token and 0 for padding, which
follows the tokens of a row; `logit_positions` int64 (batch, wanted): indices of the new tokens whose logits are
returned.
Outputs: `logits` float32 (batch, wanted, words), and the cache with the new tokens, `present.{i}.key` and `.value`.

The graph uses onnxruntime's com.microsoft operators: GroupQueryAttention applies rotary positions, updates the cache
and attends; the residual addition and the norm after it are one operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor

from compress.core.errors import ModelError
from compress.lowering.decoder.layout import Layout
from compress.lowering.graph import MS_DOMAIN
from compress.models.anatomy.table.family import ROLES
from compress.runtimes.runner import LOGIT_POSITIONS, PAST_PREFIX, PRESENT_PREFIX

OPSET = 23
"""The first opset with `RMSNormalization`."""

FloatArray = NDArray[np.float32]

LOGITS = "logits"


def past_names(layer: int) -> tuple[str, str]:
    """Input names of the cache of a layer."""
    return f"{PAST_PREFIX}{layer}.key", f"{PAST_PREFIX}{layer}.value"


def present_names(layer: int) -> tuple[str, str]:
    """Output names of the cache of a layer."""
    return f"{PRESENT_PREFIX}{layer}.key", f"{PRESENT_PREFIX}{layer}.value"


def decoder_graph(layout: Layout, weights: Mapping[str, Tensor]) -> ir.Model:
    """Build the graph of a decoder.

    Args:
        weights: its tensors by the parameter names of the family's class, on the CPU. Tensors derived from them are
            computed one at a time, when the graph is written.

    Raises:
        ModelError: a weight is missing.
    """
    return _Builder(layout, weights).model()


class _Builder:
    def __init__(self, layout: Layout, weights: Mapping[str, Tensor]) -> None:
        self.layout = layout
        self.weights = weights
        self.base = f"{layout.network.base}."
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, MS_DOMAIN: 1}, name="decoder")

    def model(self) -> ir.Model:
        layout, sizes = self.layout, self.layout.sizes
        ids = self.input("input_ids", ir.DataType.INT64, ("batch", "sequence"))
        mask = self.input("attention_mask", ir.DataType.INT64, ("batch", "total"))
        logit_positions = self.input(LOGIT_POSITIONS, ir.DataType.INT64, ("batch", "wanted"))
        self.lengths = self.op(
            "Cast",
            [self.op("Sub", [self.op("ReduceSum", [mask, self.ints([1])], keepdims=0), self.ints([1])])],
            to=ir.DataType.INT32,
        )
        total = self.op("Cast", [self.op("Shape", [mask], start=1, end=2)], to=ir.DataType.INT32)
        self.total = self.op("Squeeze", [total])
        self.rotary = {
            name: (self.constant(f"cosines{name}", table.cosines), self.constant(f"sines{name}", table.sines))
            for name, table in layout.tables.items()
        }
        embeddings = self.weight("words", self.base + layout.network.outer_parts["words"])
        stream = self.op("Gather", [embeddings, ids], name="words")
        if layout.embedding_scale != 1:
            stream = self.op(
                "Mul", [stream, self.constant("embedding_scale", np.float32(layout.embedding_scale))]
            )
        if layout.network.positions == "learned":
            stream = self.op("Add", [stream, self.position_embeddings(ids, mask)])
        present: list[ir.Value] = []
        pending: ir.Value | None = None
        for layer in range(sizes["layers"]):
            stream, pending, cache = self.layer(layer, stream, pending)
            present += cache
        _, normed = self.add_and_norm(stream, pending, self.base + layout.network.outer_parts["final_norm"])
        selected = self.op(
            "GatherND", [normed, self.op("Unsqueeze", [logit_positions, self.ints([-1])])], batch_dims=1
        )
        logits = self.lm_head(selected, embeddings)
        logits.name, logits.shape = LOGITS, ir.Shape(("batch", "wanted", sizes["vocabulary"]))
        logits.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.outputs.extend([logits, *present])
        return ir.Model(self.graph, ir_version=10, producer_name="compress")

    def layer(
        self, layer: int, stream: ir.Value, pending: ir.Value | None
    ) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
        """Build one layer; returns the residual stream, the result still to be added to it, and the cache. `pending`
        is the pending result of the layer before."""
        layout = self.layout
        stream, normed = self.add_and_norm(stream, pending, self.path(layer, "attention_norm"))
        attention_output, cache = self.attention(layer, normed)
        if layout.parallel:
            feed_forward_output = self.feed_forward(layer, self.norm(stream, self.path(layer, "output_norm")))
            return stream, self.op("Add", [attention_output, feed_forward_output]), cache
        if layout.network.norm_placement == "around":
            attention_output = self.norm(attention_output, self.path(layer, "attention_result_norm"))
        stream, normed = self.add_and_norm(stream, attention_output, self.path(layer, "output_norm"))
        feed_forward_output = self.feed_forward(layer, normed)
        if layout.network.norm_placement == "around":
            feed_forward_output = self.norm(feed_forward_output, self.path(layer, "output_result_norm"))
        return stream, feed_forward_output, cache

    def attention(self, layer: int, hidden: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
        layout, sizes = self.layout, self.layout.sizes
        parts_by_role, (qkv_roles, output_roles, *_) = (
            layout.network.layer_parts,
            layout.network.linear_groups,
        )
        qkv = self.linear(layer, qkv_roles, hidden)
        parts: list[ir.Value | None] = [qkv, None, None]
        if "query_norm" in parts_by_role:
            split = [sizes["queries"], sizes["keys"], sizes["keys"]]
            query, key, value = self.split(qkv, split)
            parts = [
                self.head_norm(layer, "query_norm", query),
                self.head_norm(layer, "key_norm", key),
                value,
            ]
        shape = ("batch", sizes["groups"], "past", sizes["head_size"])
        past = [self.input(name, ir.DataType.FLOAT, shape) for name in past_names(layer)]
        rotary_name = layout.rotaries[layer]
        tables: tuple[ir.Value | None, ir.Value | None] = (
            (None, None) if rotary_name is None else self.rotary[rotary_name]
        )
        window = layout.windows[layer]
        attributes = {
            "num_heads": sizes["heads"],
            "kv_num_heads": sizes["groups"],
            "scale": layout.scale / (layer + 1 if layout.scale_by_inverse_layer else 1),
            "do_rotary": int(rotary_name is not None),
        }
        attributes |= {} if window is None else {"local_window_size": window}
        attributes |= {} if not layout.softcap else {"softcap": layout.softcap}
        context, *cache = self.ops(
            "GroupQueryAttention",
            [*parts, *past, self.lengths, self.total, *tables],
            3,
            domain=MS_DOMAIN,
            name=f"layers.{layer}.attention",
            **attributes,
        )
        for value, name in zip(cache, present_names(layer), strict=True):
            value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
            value.shape = ir.Shape(("batch", sizes["groups"], "total", sizes["head_size"]))
        return self.linear(layer, output_roles, context), cache

    def head_norm(self, layer: int, role: str, heads: ir.Value) -> ir.Value:
        """Normalise each head of queries or keys (batch, tokens, heads x head size)."""
        size = self.layout.sizes["head_size"]
        per_head = self.op("Reshape", [heads, self.ints([0, 0, -1, size])])
        return self.op("Reshape", [self.norm(per_head, self.path(layer, role)), self.ints([0, 0, -1])])

    def feed_forward(self, layer: int, hidden: ir.Value) -> ir.Value:
        layout = self.layout
        *_, input_roles, output_roles = layout.network.linear_groups
        activated = self.linear(layer, input_roles, hidden)
        if not layout.network.gated:
            activated = self.activation(activated)
        else:
            gate, value = self.split(activated, [layout.sizes["feed_forward"]] * 2)
            activated = self.op("Mul", [self.activation(gate), value])
        return self.linear(layer, output_roles, activated)

    def activation(self, value: ir.Value) -> ir.Value:
        activation_name = self.layout.activation
        if activation_name == "silu":
            return self.op("QuickGelu", [value], domain=MS_DOMAIN, alpha=1.0)
        if activation_name == "relu":
            return self.op("Relu", [value])
        return self.op("Gelu", [value], approximate="tanh" if activation_name == "gelu_tanh" else "none")

    def linear(self, layer: int, roles: Sequence[str], inputs: ir.Value) -> ir.Value:
        """Apply layers with the same input as one product, or two if factored; query, key and value in blocks."""
        paths = [self.path(layer, role) for role in roles]
        widths = [self.layout.sizes[ROLES[role].shape[0]] for role in roles]
        in_size = self.layout.sizes[ROLES[roles[0]].shape[1]]
        name = f"layers.{layer}.{'_'.join(roles)}"
        out_size, transposed = sum(widths), self.layout.network.transposed
        if (first := self.first_factor(paths)) is not None:
            factor = _lazy(
                f"{name}.first.weight",
                (in_size, len(self.weights[first])),
                lambda: self.weight_array(first).T,
            )
            self.graph.register_initializer(factor)
            inputs = self.op("MatMul", [inputs, factor], name=f"{name}.first")
            paths, in_size, name = (
                [f"{path}.second" for path in paths],
                len(self.weights[first]),
                f"{name}.second",
            )
            transposed = False
        for path in paths:
            self.check_weight(f"{path}.weight")
        weight = _lazy(
            f"{name}.weight", (in_size, out_size), lambda: self.joined_weights(roles, paths, transposed)
        )
        self.graph.register_initializer(weight)
        product = self.op("MatMul", [inputs, weight], name=name)
        if not any(f"{path}.bias" in self.weights for path in paths):
            return product
        bias = _lazy(f"{name}.bias", (out_size,), lambda: self.joined_biases(roles, paths, widths))
        self.graph.register_initializer(bias)
        return self.op("Add", [product, bias])

    def first_factor(self, paths: Sequence[str]) -> str | None:
        """Return the name of the first factor that the layers share; None if they are not factored."""
        names = [f"{path}.first.weight" for path in paths]
        shared = {self.weights[name].data_ptr() for name in names if name in self.weights}
        if len(shared) > 1:
            raise ModelError(f"{paths[0]!r} is factored separately from the maps that share its input")
        return names[0] if names[0] in self.weights else None

    def joined_weights(self, roles: Sequence[str], paths: Sequence[str], transposed: bool) -> FloatArray:
        """Concatenate layers' weights to (in, out); `transposed`: they are already stored as (in, out)."""
        weights = [self.weight_array(f"{path}.weight") for path in paths]
        if not transposed:
            weights = [
                self.deinterleave_qkv(role, weight).T for role, weight in zip(roles, weights, strict=True)
            ]
        return np.concatenate(weights, axis=1)

    def joined_biases(self, roles: Sequence[str], paths: Sequence[str], widths: Sequence[int]) -> FloatArray:
        parts = [
            self.deinterleave_qkv(role, self.weight_array(f"{path}.bias"))
            if f"{path}.bias" in self.weights
            else np.zeros(width, np.float32)
            for role, path, width in zip(roles, paths, widths, strict=True)
        ]
        return np.concatenate(parts)

    def deinterleave_qkv(self, role: str, rows: FloatArray) -> FloatArray:
        """Reorder rows of query, key and value from interleaved per head to consecutive blocks."""
        if role != "qkv" or self.layout.network.qkv == "blocks":
            return rows
        sizes = self.layout.sizes
        by_head = rows.reshape(sizes["heads"], 3, sizes["head_size"], *rows.shape[1:])
        return np.swapaxes(by_head, 0, 1).reshape(rows.shape)

    def add_and_norm(
        self, stream: ir.Value, pending: ir.Value | None, path: str
    ) -> tuple[ir.Value, ir.Value]:
        """Add a result to the residual stream; returns the sum and its norm."""
        if pending is None:
            return stream, self.norm(stream, path)
        scale, shift = self.norm_weights(path)
        if self.layout.network.norm_type == "rms":
            op, inputs = "SkipSimplifiedLayerNormalization", [pending, stream, scale]
        else:
            op, inputs = "SkipLayerNormalization", [pending, stream, scale, shift]
        normed, _, _, total = self.ops(
            op, inputs, 4, domain=MS_DOMAIN, name=path, epsilon=self.layout.epsilon
        )
        return total, normed

    def norm(self, value: ir.Value, path: str) -> ir.Value:
        scale, shift = self.norm_weights(path)
        epsilon = self.layout.epsilon
        if shift is None:
            return self.op("RMSNormalization", [value, scale], name=path, axis=-1, epsilon=epsilon)
        return self.op("LayerNormalization", [value, scale, shift], name=path, axis=-1, epsilon=epsilon)

    def norm_weights(self, path: str) -> tuple[ir.Value, ir.Value | None]:
        offset = np.float32(self.layout.network.norm_offset)
        scale = self.constant(f"{path}.weight", self.weight_array(f"{path}.weight") + offset)
        if self.layout.network.norm_type == "rms":
            return scale, None
        return scale, self.constant(f"{path}.bias", self.weight_array(f"{path}.bias"))

    def position_embeddings(self, ids: ir.Value, mask: ir.Value) -> ir.Value:
        """Look up the position embeddings of the new tokens, which are the last ones of the mask.

        For the padding after a prompt that is shorter than others the positions simply continue, as in torch.
        """
        num_new = self.op("Shape", [ids], start=1, end=2)
        tokens = self.op("ReduceSum", [mask, self.ints([1])], keepdims=1)
        first = self.op("Max", [self.op("Sub", [tokens, num_new]), self.ints([0])])
        steps = self.op("Range", [self.ints(0), self.op("Squeeze", [num_new]), self.ints(1)])
        position_ids = self.op("Add", [first, steps])
        table = self.weight("positions", self.base + self.layout.network.outer_parts["positions"])
        return self.op("Gather", [table, position_ids], name="positions")

    def lm_head(self, selected: ir.Value, embeddings: ir.Value) -> ir.Value:
        """Compute the logits of the selected tokens (batch, wanted, hidden)."""
        layout, sizes = self.layout, self.layout.sizes
        if not layout.tied:
            embeddings = self.weight("head", layout.network.heads["words"]["head_words"])
        # Gemm with transB reads the table untransposed, so a tied head and the embedding are one constant.
        rows = self.op("Reshape", [selected, self.ints([-1, sizes["hidden"]])])
        product = self.op("Gemm", [rows, embeddings], transB=1, name="head")
        leading_shape = self.op("Shape", [selected], start=0, end=2)
        shape = self.op("Concat", [leading_shape, self.ints([sizes["vocabulary"]])], axis=0)
        logits = self.op("Reshape", [product, shape])
        if layout.final_softcap:
            cap = self.constant("final_softcap", np.float32(layout.final_softcap))
            logits = self.op("Mul", [self.op("Tanh", [self.op("Div", [logits, cap])]), cap])
        return logits

    def path(self, layer: int, role: str) -> str:
        network = self.layout.network
        return f"{self.base}{network.layer_path.format(i=layer)}.{network.layer_parts[role]}"

    def check_weight(self, name: str) -> None:
        if name not in self.weights:
            raise ModelError(f"its weights lack {name!r}, which its config requires", code="weights-missing")

    def weight_array(self, name: str) -> FloatArray:
        self.check_weight(name)
        return np.asarray(self.weights[name].detach().float().numpy())

    def weight(self, name: str, path: str) -> ir.Value:
        """Add a weight table unchanged."""
        weight_name = f"{path}.weight"
        self.check_weight(weight_name)
        value = _lazy(name, tuple(self.weights[weight_name].shape), lambda: self.weight_array(weight_name))
        self.graph.register_initializer(value)
        return value

    def constant(self, name: str, array: Any) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def ints(self, numbers: Any) -> ir.Value:
        array = np.asarray(numbers, np.int64)
        name = f"ints.{'.'.join(map(str, array.shape))}:{'.'.join(map(str, array.reshape(-1)))}"
        return self.graph.initializers.get(name) or self.constant(name, array)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(value)
        return value

    def split(self, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        return self.ops("Split", [value, self.ints(sizes)], len(sizes), axis=-1)

    def op(self, op: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        return self.ops(op, inputs, 1, **attributes)[0]

    def ops(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        num_outputs: int,
        *,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=num_outputs, name=name)
        self.graph.append(node)
        results: Sequence[ir.Value] = node.outputs
        return results


def _lazy(name: str, shape: tuple[int, ...], compute: Callable[[], FloatArray]) -> ir.Value:
    """Create a float32 constant that is computed when it is written."""
    tensor = ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(compute(), np.float32), name=name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(shape),
        name=name,
    )
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
