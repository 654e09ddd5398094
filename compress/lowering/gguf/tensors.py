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

FloatArray = NDArray[np.float32]
MatrixType = Literal["f16", "q8_0", "q4_0", "q4_1"]

GGML_TYPES: Mapping[MatrixType, GGMLQuantizationType] = {
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
}
_MAX_FLOAT16 = float(np.finfo(np.float16).max)

_OUTER_NAMES = {"words": "token_embd", "positions": "position_embd", "final_norm": "output_norm"}
_LAYER_NAMES = {
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
EMBEDDINGS_NAME, HEAD_NAME = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file: its shape, its stored type, and a function that computes its float32 values on writing."""

    name: str
    shape: tuple[int, ...]
    ggml_type: GGMLQuantizationType
    compute: Callable[[], FloatArray]

    def quantized(self) -> NDArray[np.generic]:
        """Compute the values in their stored type.

        Raises:
            PassError: a value is too large for 16 bits.
        """
        values = np.ascontiguousarray(self.compute(), np.float32)
        if (
            self.ggml_type == GGMLQuantizationType.F16
            and (largest := float(np.abs(values).max())) > _MAX_FLOAT16
        ):
            raise PassError(
                f"{self.name} holds {largest:.3g}, above the largest 16-bit float, {_MAX_FLOAT16:.0f}",
                hint="Use `gguf: q8_0`, which can hold it.",
            )
        return np.asarray(quantize(values, self.ggml_type))

    @property
    def num_bytes(self) -> int:
        """Size of the stored tensor in bytes."""
        block, size = GGML_QUANT_SIZES[self.ggml_type]
        return int(np.prod(self.shape)) // block * size


def tensors_of(
    layout: Layout, family: LlamaCppFamily, weights: Mapping[str, Tensor], matrix_type: MatrixType
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
    for name, shape, compute in _TensorSource(layout, family, weights).entries():
        ggml_type = GGMLQuantizationType.F32
        if len(shape) == 2 and not name.startswith("position_embd"):
            is_output = name == HEAD_NAME or (
                name == EMBEDDINGS_NAME and layout.tied and not family.requires_head
            )
            ggml_type = GGML_TYPES["q8_0" if is_output and matrix_type != "f16" else matrix_type]
            if shape[1] % GGML_QUANT_SIZES[ggml_type][0]:
                ggml_type = GGMLQuantizationType.F16
        yield GgufTensor(name, shape, ggml_type, compute)


class _TensorSource:
    """Names, shapes and values of all tensors, (out, in)."""

    def __init__(self, layout: Layout, family: LlamaCppFamily, weights: Mapping[str, Tensor]) -> None:
        self.layout, self.family, self.weights = layout, family, weights

    def entries(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], FloatArray]]]:
        layout, network = self.layout, self.layout.network
        for role, name in _OUTER_NAMES.items():
            if role in network.outer_parts:
                yield from self.module_entries(role, f"{network.base}.{network.outer_parts[role]}", name)
        if not layout.tied:
            yield from self.module_entries("head_words", network.heads["words"]["head_words"], "output")
        elif self.family.requires_head:
            yield from self.module_entries(
                "words", f"{network.base}.{network.outer_parts['words']}", "output"
            )
        for layer in range(layout.sizes["layers"]):
            for role, path in network.layer_parts.items():
                module_path = f"{network.base}.{network.layer_path.format(i=layer)}.{path}"
                yield from self.module_entries(role, module_path, f"blk.{layer}.{_LAYER_NAMES[role]}")
        if (factors := rope_factors(layout, self.family)) is not None:
            yield "rope_freqs.weight", factors.shape, lambda: factors

    def module_entries(
        self, role: str, path: str, name: str
    ) -> Iterator[tuple[str, tuple[int, ...], Callable[[], FloatArray]]]:
        if f"{path}.weight" not in self.weights:
            raise ModelError(
                f"its weights lack {path + '.weight'!r}, which its config requires", code="weights-missing"
            )
        for parameter in ("weight", "bias"):
            tensor = self.weights.get(f"{path}.{parameter}")
            if tensor is not None:
                shape = tuple(tensor.shape[::-1] if self.is_transposed(role, parameter) else tensor.shape)
                yield f"{name}.{parameter}", shape, partial(self.converted, role, parameter, tensor)
            elif self.family.requires_biases and role in ("qkv", "attention_output"):
                size = self.layout.sizes[ROLES[role].shape[0]]
                yield f"{name}.{parameter}", (size,), partial(_zeros, size)

    def is_transposed(self, role: str, parameter: str) -> bool:
        network = self.layout.network
        return (
            network.transposed
            and parameter == "weight"
            and role in network.layer_parts
            and ROLES[role].kind == "linear"
        )

    def converted(self, role: str, parameter: str, tensor: Tensor) -> FloatArray:
        """Convert a tensor to llama.cpp's layout."""
        layout, network, sizes = self.layout, self.layout.network, self.layout.sizes
        array: FloatArray = tensor.detach().float().numpy()
        if self.is_transposed(role, parameter):
            array = array.T
        if ROLES[role].kind == "norm" and parameter == "weight":
            array = array + np.float32(network.norm_offset)
        if role == "qkv" and network.qkv == "heads":
            by_head = array.reshape(sizes["heads"], 3, sizes["head_size"], *array.shape[1:])
            array = np.swapaxes(by_head, 0, 1).reshape(array.shape)
        if role in ("query", "key") and self.family.rotates_adjacent:
            array = interleave_halves(array, sizes["head_size"], rotated_dimensions(layout))
        if role == ("query_norm" if "query_norm" in network.layer_parts else "query"):
            # The file does not store the attention scale, so a difference is folded into the queries.
            array = array * np.float32(layout.scale / llama_cpp_scale(layout, self.family))
        return array


def interleave_halves(rows: FloatArray, head_size: int, rotated: int) -> FloatArray:
    """Reorder rows of queries or keys so that the two dimensions rotated together are adjacent in each head.

    transformers has the first halves of all pairs before the second halves; in both layouts the rotated dimensions
    come first in a head.
    """
    heads = rows.reshape(-1, head_size, *rows.shape[1:])
    halves = heads[:, :rotated].reshape(len(heads), 2, rotated // 2, *rows.shape[1:])
    interleaved = np.swapaxes(halves, 1, 2).reshape(len(heads), rotated, *rows.shape[1:])
    return np.concatenate([interleaved, heads[:, rotated:]], axis=1).reshape(rows.shape)


def _zeros(size: int) -> FloatArray:
    return np.zeros(size, np.float32)


def rotated_dimensions(layout: Layout) -> int:
    """Number of rotated dimensions of a head."""
    tables = list(layout.tables.values())
    return 2 * tables[0].cosines.shape[1] if tables else 0


def rope_factors(layout: Layout, family: LlamaCppFamily) -> FloatArray | None:
    """Frequency divisors of Llama 3's rotary scaling, float32 (rotated dimensions / 2); None for other kinds."""
    rope = layout.config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3" or "llama3" not in family.rope_types:
        return None
    (table,) = layout.tables.values()
    # The angle at position 1 equals the frequency.
    frequencies = np.arctan2(table.sines[1].astype(np.float64), table.cosines[1].astype(np.float64))
    exponents = np.arange(0, rotated_dimensions(layout), 2) / rotated_dimensions(layout)
    return np.asarray(float(rope["rope_theta"]) ** -exponents / frequencies, np.float32)


def llama_cpp_scale(layout: Layout, family: LlamaCppFamily) -> float:
    """Scale that llama.cpp applies to attention scores."""
    sizes = layout.sizes
    if sizes["layers"] == family.layers_27b:
        return float((sizes["hidden"] // sizes["heads"]) ** -0.5)
    return float(sizes["head_size"] ** -0.5)
