"""Formats of language models beside the ONNX file of a bundle."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from compress.core.artifacts import GGUF_MODEL, TASK, TOKENIZER
from compress.core.errors import ModelError
from compress.core.units import megabytes
from compress.lowering.decoder.layout import layout_of
from compress.lowering.genai import write_genai
from compress.lowering.genai_tokenizer import why_not_genai
from compress.lowering.gguf.file import write_gguf
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import load_model
from compress.passes.export.spec import ExportSpec
from compress.step import StepContext


def write_formats(ctx: StepContext, spec: ExportSpec) -> dict[str, Any]:
    """Write the requested formats; return facts of `gguf`: type, number of tensors by storage type, and size.

    Raises:
        ModelError: llama.cpp or genai does not support the model or tokenizer.
        PassError: a weight does not fit into 16 bits.
    """
    source = ctx.inputs["weights"]
    task, tokenizer = source.read_json(TASK), source.read_json(TOKENIZER)
    facts: dict[str, Any] = {}
    if "genai" in spec.formats:
        if (why := why_not_genai(tokenizer)) is not None:
            raise ModelError(
                f"genai cannot be written for this model: {why}", where=str(source.path / TOKENIZER)
            )
        write_genai(ctx.out, layout_of(read_config(source.path)).sizes, tokenizer, task)
    if "gguf" in spec.formats:
        model = load_model(source.path)
        assert isinstance(model, PreTrainedModel)
        file = ctx.out / GGUF_MODEL
        tensors = write_gguf(model, tokenizer, task, spec.gguf, file, str(task["task"]))
        size = megabytes(file.stat().st_size)
        facts["gguf"] = {"type": spec.gguf, "tensors": tensors, "size_mb": size}
    return facts
