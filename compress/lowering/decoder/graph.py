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
from compress.runtimes.runner import LOGIT_POSITIONS, PAST, PRESENT

OPSET = 23
"""The first opset with `RMSNormalization`."""

Float = NDArray[np.float32]

LOGITS = "logits"


def past_names(layer: int) -> tuple[str, str]:
    """Input names of the cache of a layer."""
    return f"{PAST}{layer}.key", f"{PAST}{layer}.value"


def present_names(layer: int) -> tuple[str, str]:
    """Output names of the cache of a layer."""
    return f"{PRESENT}{layer}.key", f"{PRESENT}{layer}.value"


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
        wanted = self.input(LOGIT_POSITIONS, ir.DataType.INT64, ("batch", "wanted"))
        self.lengths = self.op(
            "Cast",
            [self.op("Sub", [self.op("ReduceSum", [mask, self.ints([1])], keepdims=0), self.ints([1])])],
            to=ir.DataType.INT32,
        )
        total = self.op("Cast", [self.op("Shape", [mask], start=1, end=2)], to=ir.DataType.INT32)
        self.total = self.op("Squeeze", [total])
        self.rotary = {
            kind: (self.constant(f"cosines{kind}", table.cosines), self.constant(f"sines{kind}", table.sines))
            for kind, table in layout.tables.items()
        }
        words = self.weight("words", self.base + layout.network.outside["words"])
        stream = self.op("Gather", [words, ids], name="words")
        if layout.embedding_scale != 1:
            stream = self.op(
                "Mul", [stream, self.constant("embedding_scale", np.float32(layout.embedding_scale))]
            )
        if layout.network.positions == "learned":
            stream = self.op("Add", [stream, self.learned_positions(ids, mask)])
        present: list[ir.Value] = []
        result: ir.Value | None = None
        for layer in range(sizes["layers"]):
            stream, result, cache = self.layer(layer, stream, result)
            present += cache
        _, normed = self.norm_of_sum(stream, result, self.base + layout.network.outside["final_norm"])
        chosen = self.op("GatherND", [normed, self.op("Unsqueeze", [wanted, self.ints([-1])])], batch_dims=1)
        logits = self.head(chosen, words)
        logits.name, logits.shape = LOGITS, ir.Shape(("batch", "wanted", sizes["vocabulary"]))
        logits.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.outputs.extend([logits, *present])
        return ir.Model(self.graph, ir_version=10, producer_name="compress")

    def layer(
        self, layer: int, stream: ir.Value, result: ir.Value | None
    ) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
        """Build one layer; returns the residual stream, the result still to be added to it, and the cache. `result`
        is the pending result of the layer before."""
        layout = self.layout
        stream, read = self.norm_of_sum(stream, result, self.path(layer, "attention_norm"))
        attended, cache = self.attention(layer, read)
        if layout.parallel:
            fed = self.feed_forward(layer, self.norm(stream, self.path(layer, "output_norm")))
            return stream, self.op("Add", [attended, fed]), cache
        if layout.network.norms == "around":
            attended = self.norm(attended, self.path(layer, "attention_result_norm"))
        stream, read = self.norm_of_sum(stream, attended, self.path(layer, "output_norm"))
        fed = self.feed_forward(layer, read)
        if layout.network.norms == "around":
            fed = self.norm(fed, self.path(layer, "output_result_norm"))
        return stream, fed, cache

    def attention(self, layer: int, read: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
        layout, sizes = self.layout, self.layout.sizes
        inside, (together, behind, *_) = layout.network.inside, layout.network.maps
        qkv = self.linear(layer, together, read)
        parts: list[ir.Value | None] = [qkv, None, None]
        if "query_norm" in inside:
            split = [sizes["queries"], sizes["keys"], sizes["keys"]]
            query, key, value = self.split(qkv, split)
            parts = [
                self.head_norm(layer, "query_norm", query),
                self.head_norm(layer, "key_norm", key),
                value,
            ]
        shape = ("batch", sizes["groups"], "past", sizes["head_size"])
        past = [self.input(name, ir.DataType.FLOAT, shape) for name in past_names(layer)]
        kind = layout.rotaries[layer]
        tables: tuple[ir.Value | None, ir.Value | None] = (None, None) if kind is None else self.rotary[kind]
        window = layout.windows[layer]
        attributes = {
            "num_heads": sizes["heads"],
            "kv_num_heads": sizes["groups"],
            "scale": layout.scale / (layer + 1 if layout.deeper_weaker else 1),
            "do_rotary": int(kind is not None),
        }
        attributes |= {} if window is None else {"local_window_size": window}
        attributes |= {} if not layout.softcap else {"softcap": layout.softcap}
        attended, *cache = self.ops(
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
        return self.linear(layer, behind, attended), cache

    def head_norm(self, layer: int, role: str, heads: ir.Value) -> ir.Value:
        """Normalise each head of queries or keys (batch, tokens, heads x head size)."""
        size = self.layout.sizes["head_size"]
        apart = self.op("Reshape", [heads, self.ints([0, 0, -1, size])])
        return self.op("Reshape", [self.norm(apart, self.path(layer, role)), self.ints([0, 0, -1])])

    def feed_forward(self, layer: int, read: ir.Value) -> ir.Value:
        layout = self.layout
        *_, together, behind = layout.network.maps
        fed = self.linear(layer, together, read)
        if not layout.network.gated:
            fed = self.activation(fed)
        else:
            gate, value = self.split(fed, [layout.sizes["feed_forward"]] * 2)
            fed = self.op("Mul", [self.activation(gate), value])
        return self.linear(layer, behind, fed)

    def activation(self, value: ir.Value) -> ir.Value:
        kind = self.layout.activation
        if kind == "silu":
            return self.op("QuickGelu", [value], domain=MS_DOMAIN, alpha=1.0)
        if kind == "relu":
            return self.op("Relu", [value])
        return self.op("Gelu", [value], approximate="tanh" if kind == "gelu_tanh" else "none")

    def linear(self, layer: int, roles: Sequence[str], read: ir.Value) -> ir.Value:
        """Apply layers with the same input as one product, or two if factored; query, key and value in blocks."""
        paths = [self.path(layer, role) for role in roles]
        widths = [self.layout.sizes[ROLES[role].shape[0]] for role in roles]
        reads = self.layout.sizes[ROLES[roles[0]].shape[1]]
        name = f"layers.{layer}.{'_'.join(roles)}"
        out, in_out = sum(widths), self.layout.network.in_out
        if (first := self.first_factor(paths)) is not None:
            factor = _lazy(
                f"{name}.first.weight", (reads, len(self.weights[first])), lambda: self.read(first).T
            )
            self.graph.register_initializer(factor)
            read = self.op("MatMul", [read, factor], name=f"{name}.first")
            paths, reads, name = (
                [f"{path}.second" for path in paths],
                len(self.weights[first]),
                f"{name}.second",
            )
            in_out = False
        for path in paths:
            self.check(f"{path}.weight")
        weight = _lazy(f"{name}.weight", (reads, out), lambda: self.turned(roles, paths, in_out))
        self.graph.register_initializer(weight)
        product = self.op("MatMul", [read, weight], name=name)
        if not any(f"{path}.bias" in self.weights for path in paths):
            return product
        bias = _lazy(f"{name}.bias", (out,), lambda: self.biases(roles, paths, widths))
        self.graph.register_initializer(bias)
        return self.op("Add", [product, bias])

    def first_factor(self, paths: Sequence[str]) -> str | None:
        """Return the name of the first factor that the layers share; None if they are not factored."""
        names = [f"{path}.first.weight" for path in paths]
        shared = {self.weights[name].data_ptr() for name in names if name in self.weights}
        if len(shared) > 1:
            raise ModelError(f"{paths[0]!r} is factored separately from the maps that share its input")
        return names[0] if names[0] in self.weights else None

    def turned(self, roles: Sequence[str], paths: Sequence[str], in_out: bool) -> Float:
        """Concatenate layers' weights to (in, out); `in_out`: they are already stored as (in, out)."""
        found = [self.read(f"{path}.weight") for path in paths]
        if not in_out:
            found = [self.in_blocks(role, weight).T for role, weight in zip(roles, found, strict=True)]
        return np.concatenate(found, axis=1)

    def biases(self, roles: Sequence[str], paths: Sequence[str], widths: Sequence[int]) -> Float:
        found = [
            self.in_blocks(role, self.read(f"{path}.bias"))
            if f"{path}.bias" in self.weights
            else np.zeros(width, np.float32)
            for role, path, width in zip(roles, paths, widths, strict=True)
        ]
        return np.concatenate(found)

    def in_blocks(self, role: str, rows: Float) -> Float:
        """Reorder rows of query, key and value from interleaved per head to consecutive blocks."""
        if role != "qkv" or self.layout.network.qkv == "blocks":
            return rows
        sizes = self.layout.sizes
        by_head = rows.reshape(sizes["heads"], 3, sizes["head_size"], *rows.shape[1:])
        return np.swapaxes(by_head, 0, 1).reshape(rows.shape)

    def norm_of_sum(self, stream: ir.Value, result: ir.Value | None, path: str) -> tuple[ir.Value, ir.Value]:
        """Add a result to the residual stream; returns the sum and its norm."""
        if result is None:
            return stream, self.norm(stream, path)
        scale, shift = self.norm_weights(path)
        if self.layout.network.norm == "rms":
            op, inputs = "SkipSimplifiedLayerNormalization", [result, stream, scale]
        else:
            op, inputs = "SkipLayerNormalization", [result, stream, scale, shift]
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
        scale = self.constant(f"{path}.weight", self.read(f"{path}.weight") + offset)
        if self.layout.network.norm == "rms":
            return scale, None
        return scale, self.constant(f"{path}.bias", self.read(f"{path}.bias"))

    def learned_positions(self, ids: ir.Value, mask: ir.Value) -> ir.Value:
        """Look up the position embeddings of the new tokens, which are the last ones of the mask.

        For the padding after a prompt that is shorter than others the positions simply continue, as in torch.
        """
        count = self.op("Shape", [ids], start=1, end=2)
        tokens = self.op("ReduceSum", [mask, self.ints([1])], keepdims=1)
        first = self.op("Max", [self.op("Sub", [tokens, count]), self.ints([0])])
        steps = self.op("Range", [self.ints(0), self.op("Squeeze", [count]), self.ints(1)])
        places = self.op("Add", [first, steps])
        table = self.weight("positions", self.base + self.layout.network.outside["positions"])
        return self.op("Gather", [table, places], name="positions")

    def head(self, chosen: ir.Value, words: ir.Value) -> ir.Value:
        """Compute the logits of the selected tokens (batch, wanted, hidden)."""
        layout, sizes = self.layout, self.layout.sizes
        if not layout.tied:
            words = self.weight("head", layout.network.heads["words"]["head_words"])
        # Gemm with transB reads the table untransposed, so a tied head and the embedding are one constant.
        rows = self.op("Reshape", [chosen, self.ints([-1, sizes["hidden"]])])
        product = self.op("Gemm", [rows, words], transB=1, name="head")
        wanted = self.op("Shape", [chosen], start=0, end=2)
        shape = self.op("Concat", [wanted, self.ints([sizes["vocabulary"]])], axis=0)
        logits = self.op("Reshape", [product, shape])
        if layout.final_softcap:
            cap = self.constant("final_softcap", np.float32(layout.final_softcap))
            logits = self.op("Mul", [self.op("Tanh", [self.op("Div", [logits, cap])]), cap])
        return logits

    def path(self, layer: int, role: str) -> str:
        network = self.layout.network
        return f"{self.base}{network.layer.format(i=layer)}.{network.inside[role]}"

    def check(self, name: str) -> None:
        if name not in self.weights:
            raise ModelError(f"its weights lack {name!r}, which its config requires", code="weights-missing")

    def read(self, name: str) -> Float:
        self.check(name)
        return np.asarray(self.weights[name].detach().float().numpy())

    def weight(self, name: str, path: str) -> ir.Value:
        """Add a weight table unchanged."""
        stored = f"{path}.weight"
        self.check(stored)
        value = _lazy(name, tuple(self.weights[stored].shape), lambda: self.read(stored))
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
        outputs: int,
        *,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        self.graph.append(node)
        made: Sequence[ir.Value] = node.outputs
        return made


def _lazy(name: str, shape: tuple[int, ...], make: Callable[[], Float]) -> ir.Value:
    """Create a float32 constant that is computed when it is written."""
    tensor = ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(make(), np.float32), name=name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(shape),
        name=name,
    )
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
