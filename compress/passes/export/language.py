"""The formats that language models alone have, beside the ONNX file of a bundle."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from compress.core.artifacts import GGUF_MODEL, TASK, TOKENIZER
from compress.core.units import megabytes
from compress.lowering.gguf.file import write_gguf
from compress.models.io.checkpoints import load_model
from compress.passes.export.spec import ExportSpec
from compress.step import StepContext


def write_llama_cpp(ctx: StepContext, spec: ExportSpec) -> dict[str, Any]:
    """Write llama.cpp's file from the float weights: its type, how many tensors are stored in which, its size.

    Raises:
        ModelError: llama.cpp has no such model or tokenizer.
        PassError: a weight does not fit into 16 bits.
    """
    source = ctx.inputs["weights"]
    model = load_model(source.path)
    assert isinstance(model, PreTrainedModel)
    task, tokenizer = source.read_json(TASK), source.read_json(TOKENIZER)
    file = ctx.out / GGUF_MODEL
    tensors = write_gguf(model, tokenizer, task, spec.gguf, file, str(task["task"]))
    return {"type": spec.gguf, "tensors": tensors, "size_mb": megabytes(file.stat().st_size)}
