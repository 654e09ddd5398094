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
from compress.passes.quantize.weight_only.row_matching import Row, rows_of
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.passes.quantize.weight_only.stored import Stored, multiply_scales, stored_blocks
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
    spec, source = ctx.asked(WeightOnlySpec), ctx.inputs["model"]
    assert spec.train is not None
    model = load_model(ctx.inputs["float"].path, allow_code=ctx.allow_code)
    rows = rows_of(model, ir.load(ctx.inputs["lowered"].path / ONNX_MODEL).graph)
    quantized = ir.load(source.path / ONNX_MODEL)
    student = scaled_model(model, rows, stored_blocks(quantized.graph))
    if not student.weights:
        raise ModelError("no product in this model has block-quantized weights", where="quantize.train")
    interface = ctx.inputs["float"].path
    validation = Validation.of(ctx, interface, ctx.inputs["teacher"])
    before = validation.score(student.to(ctx.device))
    curve = recover(ctx, student, spec.train, interface, validation, name="train")
    after = validation.score(student)
    if after < before:
        ctx.progress.say("quantize: training did not help; the untrained scales are kept")
        load_weights(
            student.changes, {name: torch.zeros_like(one) for name, one in student.changes.named_parameters()}
        )
    multiply_scales(quantized.graph, factors_of(student, rows))
    save_onnx(quantized, ctx.out)
    copy_interface(source.path, ctx.out)
    facts = {
        "weights": len(student.weights),
        "scales": sum(one.numel() for one in student.changes),
        "validation_score_before": before,
        "validation_score_trained": after,
        "kept": "trained" if after >= before else "untrained",
    }
    return StepResult(source.form, {**source.facts, "trained_scales": facts}, (curve,))


def scaled_model(
    model: nn.Module, rows: Mapping[str, Sequence[Row]], stored: Mapping[str, Stored]
) -> ScaledBlocks:
    """Return the model with the weights of a file, of which those used only by products have trainable scales.

    Args:
        model: changed in place.
        rows: see `rows_of`.
        stored: the block-quantized weights by node name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights: dict[str, ScaledWeight] = {}
    floating = {row.parameter for node in rows.keys() - stored.keys() for row in rows[node]}
    for node, (blocks, is_read) in stored.items():
        # A head tied to a floating-point table stays floating here too.
        if not is_read and any(row.parameter in floating for row in rows[node]):
            continue
        floats = torch.from_numpy(blocks.dequantized())
        for name, (turned, own, numbers) in _by_parameter(rows[node]).items():
            held = parameters[name].detach()
            rows_held = held.view(len(held), -1)
            (rows_held.T if turned else rows_held)[numbers] = floats[own]
            if not is_read and held.ndim == 2 and len(numbers) == held.shape[turned]:
                weights[name] = ScaledWeight(name, blocks.block_size, turned)
    return ScaledBlocks(model, [*weights.values()])


def factors_of(student: ScaledBlocks, rows: Mapping[str, Sequence[Row]]) -> dict[str, np.ndarray]:
    """Return the trained factors of the scales of each node, float32 (rows, blocks)."""
    trained = {name: factors.numpy() for name, factors in student.factors().items()}
    found = {}
    for node, own in rows.items():
        if all(row.parameter in trained for row in own):
            found[node] = np.stack([trained[row.parameter][row.number] for row in own])
    return found


def _by_parameter(rows: Sequence[Row]) -> dict[str, tuple[bool, list[int], list[int]]]:
    """Group rows by parameter: whether it is transposed, and their indices here and in the parameter."""
    found: dict[str, tuple[bool, list[int], list[int]]] = {}
    for place, row in enumerate(rows):
        _, own, numbers = found.setdefault(row.parameter, (row.turned, [], []))
        own.append(place)
        numbers.append(row.number)
    return found
