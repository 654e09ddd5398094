"""A decoder as torch exports it, with keys and values as inputs and outputs; and such a file in 4 bits.

    python benchmarks/peers/plain_export.py SOURCE OUT.onnx

SOURCE is a folder of transformers, or an ONNX file, whose products and table onnxruntime's own tool rounds to nearest
in blocks of 32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache


class Cached(nn.Module):
    """A decoder whose cache is passed tensor by tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        """Logits of all new tokens, and keys and values of all tokens, layer by layer."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(keys, values, layer)
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
        )
        layers = found.past_key_values.layers
        return (found.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def export(folder: str, out: str) -> None:
    """Write a folder of transformers as an ONNX file."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = [f".{layer}.{side}" for layer in range(config.num_hidden_layers) for side in ("key", "value")]
    past = [torch.randn(1, config.num_key_value_heads, 5, size) for _ in names]
    free = torch.export.Dim.AUTO
    program = torch.onnx.export(
        Cached(model),
        (torch.ones(1, 3, dtype=torch.long), torch.ones(1, 8, dtype=torch.long), past),
        dynamo=True,
        dynamic_shapes={"input_ids": {1: free}, "attention_mask": {1: free}, "past": [{2: free}] * len(past)},
        input_names=["input_ids", "attention_mask", *(f"past_key_values{name}" for name in names)],
        output_names=["logits", *(f"present{name}" for name in names)],
        opset_version=23,
    )
    assert program is not None
    program.save(out, external_data=True)


def quantize(file: str, out: str) -> None:
    """Write an ONNX file in 4 bits."""
    tool = MatMulNBitsQuantizer(
        onnx.load(file),
        block_size=32,
        is_symmetric=True,
        accuracy_level=4,
        op_types_to_quantize=("MatMul", "Gather"),
    )
    tool.process()
    tool.model.save_model_to_file(out, use_external_data_format=True)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    (quantize if Path(source).is_file() else export)(source, target)
