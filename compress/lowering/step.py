"""Lower a torch model to the fastest equivalent FP32 ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from transformers import PreTrainedModel

from compress.core.artifacts import TASK, copy_interface
from compress.core.disk.files import write_json
from compress.core.forms import Framework
from compress.encoding.inputs import Batch
from compress.lowering.attention import fuse_attention
from compress.lowering.constants import transpose_constants
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.lowering.early_token_selection import select_early
from compress.lowering.export import export_graph, signature_of
from compress.lowering.files import save_onnx
from compress.lowering.graph import tidy
from compress.lowering.macs import count_macs
from compress.lowering.naming import name_after_modules
from compress.lowering.parity import Outputs, compare_outputs, real_batches
from compress.lowering.patches import patches_to_matmul
from compress.lowering.pooling import mean_to_global_pool
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.io.checkpoints import count_parameters, load_model
from compress.models.io.outputs import outputs_of
from compress.step import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Export, fuse, save, and compare with the torch model on real inputs.

    Raises:
        PassError: the model cannot be exported, or the outputs of the file differ.
    """
    source = ctx.inputs["model"]
    task = source.read_json(TASK)
    model = load_model(source.path, attention="eager", allow_code=ctx.allow_code)
    graph, changes = lower(model, task)
    path = save_onnx(graph, ctx.out)
    copy_interface(source.path, ctx.out)
    if "positions" in changes:
        write_json(ctx.out / TASK, {**task, "positions": changes["positions"]})

    def expected(batch: Batch) -> Outputs:
        with torch.no_grad():
            outputs = outputs_of(model(**{name: torch.from_numpy(values) for name, values in batch.items()}))
        return np.asarray(outputs.numpy(), np.float32)

    example = signature_of(task, rows=1, length=int(task.get("max_length", 1))).example
    facts = {
        **source.facts,
        "parameters": count_parameters(model),
        "macs": count_macs(model, example),
        "macs_shape": list(next(iter(example.values())).shape),
        "parity": compare_outputs(path, real_batches(ctx.task, ctx.data.validation, source), expected),
        "opset": graph.graph.opset_imports[""],
        **changes,
        "nodes": len(graph.graph),
    }
    return StepResult(source.form.with_fields(framework=Framework.ONNX), facts)


def lower(model: nn.Module, task: Mapping[str, Any]) -> tuple[ir.Model, dict[str, Any]]:
    """Return the graph of a model (float32, eval mode, eager attention), and facts about the changes applied.

    Args:
        task: the content of its `task.json`.

    Raises:
        PassError: the model cannot be exported.
    """
    if isinstance(model, PreTrainedModel) and model.config.model_type in DECODERS:
        layout = layout_of(model.config)
        changes = {"cached_layers": layout.sizes["layers"], "positions": layout.max_positions}
        return decoder_graph(layout, model.state_dict()), changes
    graph = export_graph(model, signature_of(task))
    transpose_constants(graph)
    name_after_modules(graph)
    patches = patches_to_matmul(graph)
    mean_to_global_pool(graph)
    attentions = fuse_attention(graph)
    selected = select_early(graph)
    tidy(graph)
    changes = {"fused_attentions": attentions, "multiplied_patches": patches, "selected_early": selected}
    return graph, changes
