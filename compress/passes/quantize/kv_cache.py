"""INT8 KV cache of a decoder, with a calibrated scale per channel of each head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.disk.files import make_empty_folder, remove
from compress.core.errors import ModelError
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.lowering.graph import add_initializer
from compress.passes.quantize.calibration.activation_capture import capture_activations

INT8_MAX = 127
_PAST, _SCALES = (3, 4), (12, 13)
"""Input indices of the cache and of its scales in `GroupQueryAttention`."""


def quantize_kv_cache(model: ir.Model, batches: Callable[[], Iterator[Batch]], work: Path) -> None:
    """Convert the KV cache of a decoder to int8: `past_key_values.*` and `present.*`.

    Ranges of keys and values are measured on the current model, including block-quantized weights, because a method may
    have folded scales into them.

    Args:
        model: changed in place.
        batches: starts an iteration over unpadded examples.
        work: folder for temporary copies of the model.

    Raises:
        ModelError: the model has no KV cache.
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "GroupQueryAttention"]
    if not nodes:
        raise ModelError(
            "this model has no key-value cache", where="quantize.cache", hint="Leave `cache` out."
        )
    make_empty_folder(folder := work / "uncached")
    names = [value.name or "" for node in nodes for value in node.outputs[1:3]]
    max_abs: dict[str, NDArray[np.float32]] = {}
    for found in capture_activations(save_onnx(model, folder), names, batches(), work):
        for name, values in found.items():
            sizes = np.abs(values).max(axis=(0, 2), keepdims=True)
            max_abs[name] = np.maximum(max_abs.get(name, sizes), sizes)
    remove(folder)
    for node in nodes:
        node.resize_inputs(_SCALES[-1] + 1)
        for present, past, scale in zip(node.outputs[1:3], _PAST, _SCALES, strict=True):
            name = present.name or ""
            scales = np.where(max_abs[name] > 0, max_abs[name] / INT8_MAX, 1).astype(np.float32)
            node.replace_input_with(scale, add_initializer(graph, f"{name}.scale", scales))
            for value in (present, node.inputs[past]):
                assert value is not None
                value.type = ir.TensorType(ir.DataType.INT8)
        for kind in ("k_quant_type", "v_quant_type"):
            node.attributes[kind] = ir.AttrString(kind, "PER_CHANNEL")
        node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
