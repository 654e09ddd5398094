"""The weights of a decoder with llama.cpp's names and layout, and the type in which each is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray
from torch import Tensor

from compress.core.errors import ModelError, PassError
from compress.lowering.decoder.layout import Layout
from compress.lowering.gguf.family import LlamaCppFamily
from compress.models.anatomy.table.family import ROLES

Float = NDArray[np.float32]
Stored = Literal["f16", "q8_0", "q4_0", "q4_1"]

TYPES: Mapping[Stored, GGMLQuantizationType] = {
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
}
_LARGEST_HALF = float(np.finfo(np.float16).max)

_OUTSIDE = {"words": "token_embd", "positions": "position_embd", "final_norm": "output_norm"}
_INSIDE = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "qkv": "attn_qkv",
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "attention_output": "attn_output",
    "attention_result_norm": "post_attention_norm",
    "output_norm": "ffn_norm",
    "gate": "ffn_gate",
    "feed_in": "ffn_up",
    "gate_feed_in": "ffn_up",
    "feed_out": "ffn_down",
    "output_result_norm": "post_ffw_norm",
}
WORDS, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file: its shape, its stored type, and a function that computes its float32 values on writing."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    make: Callable[[], Float]

    def stored(self) -> NDArray[np.generic]:
        """Compute the values in their stored type.

        Raises:
            PassError: a value is too large for 16 bits.
        """
        made = np.ascontiguousarray(self.make(), np.float32)
        if self.kind == GGMLQuantizationType.F16 and (largest := float(np.abs(made).max())) > _LARGEST_HALF:
            raise PassError(
                f"{self.name} holds {largest:.3g}, above the largest 16-bit float, {_LARGEST_HALF:.0f}",
                hint="Use `gguf: q8_0`, which can hold it.",
            )
        return np.asarray(quantize(made, self.kind))

    @property
    def bytes(self) -> int:
        """Size of the stored tensor in bytes."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * size


def tensors_of(
    layout: Layout, family: LlamaCppFamily, weights: Mapping[str, Tensor], stored: Stored
) -> Iterator[GgufTensor]:
    """Yield every tensor of the file.

    Matrices are stored in the requested type, or in 16 bits if their rows are not a multiple of the block size of
    32; the head, or the word embeddings if tied to it, is stored in 8 bits beside 4-bit matrices. Vectors and
    learned positions are float32.

    Args:
        weights: by the parameter names of the family's class, on the CPU.

    Raises:
        ModelError: a weight is missing.
    """
    for name, shape, make in _Arrays(layout, family, weights).all():
        kind = GGMLQuantizationType.F32
        if len(shape) == 2 and not name.startswith("position_embd"):
            decides = name == HEAD or (name == WORDS and layout.tied and not family.head)
            kind = TYPES["q8_0" if decides and stored != "f16" else stored]
            if shape[1] % GGML_QUANT_SIZES[kind][0]:
                kind = GGMLQuantizationType.F16
        yield GgufTensor(name, shape, kind, make)


class _Arrays:
    """Names, shapes and values of all tensors, (out, in)."""

    def __init__(self, layout: Layout, family: LlamaCppFamily, weights: Mapping[str, Tensor]) -> None:
        self.layout, self.family, self.weights = layout, family, weights

    def all(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Float]]]:
        layout, network = self.layout, self.layout.network
        for role, name in _OUTSIDE.items():
            if role in network.outside:
                yield from self.part(role, f"{network.base}.{network.outside[role]}", name)
        if not layout.tied:
            yield from self.part("head_words", network.heads["words"]["head_words"], "output")
        elif self.family.head:
            yield from self.part("words", f"{network.base}.{network.outside['words']}", "output")
        for layer in range(layout.sizes["layers"]):
            for role, path in network.inside.items():
                whole = f"{network.base}.{network.layer.format(i=layer)}.{path}"
                yield from self.part(role, whole, f"blk.{layer}.{_INSIDE[role]}")
        if (factors := rope_factors(layout, self.family)) is not None:
            yield "rope_freqs.weight", factors.shape, lambda: factors

    def part(
        self, role: str, path: str, name: str
    ) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Float]]]:
        if f"{path}.weight" not in self.weights:
            raise ModelError(
                f"its weights lack {path + '.weight'!r}, which its config requires", code="weights-missing"
            )
        for kind in ("weight", "bias"):
            tensor = self.weights.get(f"{path}.{kind}")
            if tensor is not None:
                shape = tuple(tensor.shape[::-1] if self.turned(role, kind) else tensor.shape)
                yield f"{name}.{kind}", shape, partial(self.made, role, kind, tensor)
            elif self.family.biases and role in ("qkv", "attention_output"):
                size = self.layout.sizes[ROLES[role].shape[0]]
                yield f"{name}.{kind}", (size,), partial(_zeros, size)

    def turned(self, role: str, kind: str) -> bool:
        network = self.layout.network
        return network.in_out and kind == "weight" and role in network.inside and ROLES[role].kind == "linear"

    def made(self, role: str, kind: str, tensor: Tensor) -> Float:
        """Convert a tensor to llama.cpp's layout."""
        layout, network, sizes = self.layout, self.layout.network, self.layout.sizes
        array: Float = tensor.detach().float().numpy()
        if self.turned(role, kind):
            array = array.T
        if ROLES[role].kind == "norm" and kind == "weight":
            array = array + np.float32(network.norm_offset)
        if role == "qkv" and network.qkv == "heads":
            by_head = array.reshape(sizes["heads"], 3, sizes["head_size"], *array.shape[1:])
            array = np.swapaxes(by_head, 0, 1).reshape(array.shape)
        if role in ("query", "key") and self.family.turns_pairs:
            array = interleave_halves(array, sizes["head_size"], rotated_dimensions(layout))
        if role == ("query_norm" if "query_norm" in network.inside else "query"):
            # The file does not store the attention scale, so a difference is folded into the queries.
            array = array * np.float32(layout.scale / llama_cpp_scale(layout, self.family))
        return array


def interleave_halves(rows: Float, head_size: int, rotated: int) -> Float:
    """Reorder rows of queries or keys so that the two dimensions rotated together are adjacent in each head.

    transformers has the first halves of all pairs before the second halves; in both layouts the rotated dimensions
    come first in a head.
    """
    heads = rows.reshape(-1, head_size, *rows.shape[1:])
    halves = heads[:, :rotated].reshape(len(heads), 2, rotated // 2, *rows.shape[1:])
    turned = np.swapaxes(halves, 1, 2).reshape(len(heads), rotated, *rows.shape[1:])
    return np.concatenate([turned, heads[:, rotated:]], axis=1).reshape(rows.shape)


def _zeros(size: int) -> Float:
    return np.zeros(size, np.float32)


def rotated_dimensions(layout: Layout) -> int:
    """Number of rotated dimensions of a head."""
    tables = list(layout.tables.values())
    return 2 * tables[0].cosines.shape[1] if tables else 0


def rope_factors(layout: Layout, family: LlamaCppFamily) -> Float | None:
    """Frequency divisors of Llama 3's rotary scaling, float32 (rotated dimensions / 2); None for other kinds."""
    rope = layout.config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3" or "llama3" not in family.ropes:
        return None
    (table,) = layout.tables.values()
    # The angle at position 1 equals the frequency.
    turned = np.arctan2(table.sines[1].astype(np.float64), table.cosines[1].astype(np.float64))
    exponents = np.arange(0, rotated_dimensions(layout), 2) / rotated_dimensions(layout)
    return np.asarray(float(rope["rope_theta"]) ** -exponents / turned, np.float32)


def llama_cpp_scale(layout: Layout, family: LlamaCppFamily) -> float:
    """Scale that llama.cpp applies to attention scores."""
    sizes = layout.sizes
    if sizes["layers"] == family.layers_27b:
        return float((sizes["hidden"] // sizes["heads"]) ** -0.5)
    return float(sizes["head_size"] ** -0.5)
