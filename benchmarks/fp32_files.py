"""One float model as several FP32 files, for tools that do not know the fused operators of ours."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from compress.core.artifacts import TASK, Artifact
from compress.lowering.export import export_graph, signature_of
from compress.lowering.graph import insert_before, tidy
from compress.models.io.checkpoints import load_model
from compress.passes.quantize.layers import FusedAttention, weighted_layers
from compress.passes.quantize.weight_only.matmul_nbits import unfuse_attention


def taken_apart(source: Path, target: Path) -> Path:
    """The same float model with a plain product in each attention."""
    model = ir.load(source)
    for layer in list(weighted_layers(model.graph)):
        if isinstance(layer, FusedAttention):
            product = ir.node("MatMul", [layer.source, layer.weight_value], name=f"{layer.node.name}.product")
            unfuse_attention(model.graph, layer, insert_before(model.graph, layer.node, product))
    tidy(model)
    ir.save(model, target)
    return target


def plain_export(source: Artifact, target: Path) -> Path:
    """A torch model as torch exports it, nothing fused."""
    graph = export_graph(load_model(source.path, attention="eager"), signature_of(source.read_json(TASK)))
    ir.save(graph, target)
    return target


def with_shapes(source: Path, target: Path) -> Path:
    """The same file with types and shapes of inner values as onnxruntime infers them, which knows its own operators.

    Tools quantize no value whose type they do not know, and infer none behind an operator that is not theirs.
    """
    model = onnx.load(str(source))
    del model.graph.value_info[:]
    onnx.save(SymbolicShapeInference.infer_shapes(model, auto_merge=True), str(target))
    return target
