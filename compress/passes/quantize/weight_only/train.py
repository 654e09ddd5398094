"""quantize.scales: train the block scales against the teacher's outputs; the integers do not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from compress.core.artifacts import ONNX_MODEL, copy_interface
from compress.core.errors import ModelError
from compress.lowering.files import save_onnx
from compress.models.io.checkpoints import load_model
from compress.passes.quantize.weight_only.row_matching import ParameterRow, match_rows
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.passes.quantize.weight_only.stored import StoredWeight, multiply_scales, stored_blocks
from compress.step import StepContext, StepResult
from compress.training.checkpointing import load_weights
from compress.training.recovery import recover
from compress.training.rounding.scaled_blocks import ScaledBlocks, ScaledWeight
from compress.training.validation import Validation


def run(ctx: StepContext) -> StepResult:
    """Load the weights of the file into the torch model, train the scales there, and write them into the file.

    Embedding tables, a head tied to one, and the patch projection of images do not change. If training lowers the
    validation score, the untrained scales are kept.

    Raises:
        ModelError: the file has nothing to train, or its weights do not match the torch model's.
    """
    spec, source = ctx.spec_as(WeightOnlySpec), ctx.inputs["model"]
    assert spec.train is not None
    model = load_model(ctx.inputs["float"].path, allow_code=ctx.allow_code)
    rows = match_rows(model, ir.load(ctx.inputs["lowered"].path / ONNX_MODEL).graph)
    quantized = ir.load(source.path / ONNX_MODEL)
    student = scaled_model(model, rows, stored_blocks(quantized.graph))
    if not student.weights:
        raise ModelError("no product in this model has block-quantized weights", where="quantize.train")
    interface = ctx.inputs["float"].path
    validation = Validation.of(ctx, interface, ctx.inputs["teacher"])
    score_before = validation.score(student.to(ctx.device))
    curve = recover(ctx, student, spec.train, interface, validation, name="train")
    score_after = validation.score(student)
    if score_after < score_before:
        ctx.progress.say("quantize: training did not help; the untrained scales are kept")
        load_weights(
            student.changes,
            {name: torch.zeros_like(parameter) for name, parameter in student.changes.named_parameters()},
        )
    multiply_scales(quantized.graph, trained_factors(student, rows))
    save_onnx(quantized, ctx.out)
    copy_interface(source.path, ctx.out)
    facts = {
        "weights": len(student.weights),
        "scales": sum(parameter.numel() for parameter in student.changes),
        "validation_score_before": score_before,
        "validation_score_trained": score_after,
        "kept": "trained" if score_after >= score_before else "untrained",
    }
    return StepResult(source.form, {**source.facts, "trained_scales": facts}, (curve,))


def scaled_model(
    model: nn.Module, rows: Mapping[str, Sequence[ParameterRow]], stored: Mapping[str, StoredWeight]
) -> ScaledBlocks:
    """Return the model with the weights of a file, of which those used only by products have trainable scales.

    Args:
        model: changed in place.
        rows: see `match_rows`.
        stored: the block-quantized weights by node name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights: dict[str, ScaledWeight] = {}
    float_parameters = {row.parameter for node in rows.keys() - stored.keys() for row in rows[node]}
    for node, (blocks, is_lookup) in stored.items():
        # A head tied to a floating-point table stays floating here too.
        if not is_lookup and any(row.parameter in float_parameters for row in rows[node]):
            continue
        floats = torch.from_numpy(blocks.dequantized())
        for name, (transposed, source_rows, row_indices) in _by_parameter(rows[node]).items():
            parameter = parameters[name].detach()
            rows_held = parameter.view(len(parameter), -1)
            (rows_held.T if transposed else rows_held)[row_indices] = floats[source_rows]
            if not is_lookup and parameter.ndim == 2 and len(row_indices) == parameter.shape[transposed]:
                weights[name] = ScaledWeight(name, blocks.block_size, transposed)
    return ScaledBlocks(model, [*weights.values()])


def trained_factors(
    student: ScaledBlocks, rows: Mapping[str, Sequence[ParameterRow]]
) -> dict[str, np.ndarray]:
    """Return the trained factors of the scales of each node, float32 (rows, blocks)."""
    trained = {name: factors.numpy() for name, factors in student.factors().items()}
    node_factors = {}
    for node, own in rows.items():
        if all(row.parameter in trained for row in own):
            node_factors[node] = np.stack([trained[row.parameter][row.row_index] for row in own])
    return node_factors


def _by_parameter(rows: Sequence[ParameterRow]) -> dict[str, tuple[bool, list[int], list[int]]]:
    """Group rows by parameter: whether it is transposed, and their indices here and in the parameter."""
    grouped: dict[str, tuple[bool, list[int], list[int]]] = {}
    for place, row in enumerate(rows):
        _, own, row_indices = grouped.setdefault(row.parameter, (row.transposed, [], []))
        own.append(place)
        row_indices.append(row.row_index)
    return grouped
