"""quantize.train: quantization-aware training against the teacher's outputs.

Quantization-aware training (Jacob et al. 2018, arXiv:1712.05877) with distillation (QAD: Polino, Pascanu and Alistarh
2018, arXiv:1802.05668). The result is a float model of the same structure, which later steps lower and quantize like
any other.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from compress.core.artifacts import TASK, copy_interface
from compress.core.disk.files import make_empty_folder, remove
from compress.core.errors import ModelError
from compress.core.numerics import reduced_range
from compress.lowering.files import save_onnx
from compress.lowering.step import lower
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.affine import weight_limit
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.qat.fake_quant import add_fake_quantization
from compress.step import StepContext, StepResult
from compress.training.batches import to_tensors
from compress.training.checkpointing import copy_weights, load_weights
from compress.training.recovery import check_saved, recover
from compress.training.validation import Validation

EXAMPLES = 2
"""Number of examples for matching modules with graph values."""


def run(ctx: StepContext) -> StepResult:
    """Train the model with its rounding simulated, save the float model and verify it.

    If training lowers the validation score of the rounded model, the original weights are kept.

    Raises:
        ModelError: no weight would be rounded, a pattern in `exclude` matches nothing, or the scheme does not fit a
            layer.
        PassError: the model cannot be lowered, or the saved model does not give the same outputs.
    """
    spec, source = ctx.spec_as(Int8Spec), ctx.inputs["model"]
    assert spec.train is not None
    eager = load_model(source.path, attention="eager", allow_code=ctx.allow_code)
    graph, _ = lower(eager, source.read_json(TASK))
    export_folder = ctx.work / "lowered"
    make_empty_folder(export_folder)
    path = save_onnx(graph, export_folder)
    model = load_model(source.path, allow_code=ctx.allow_code)
    inputs = ctx.task.encode(ctx.data.train, source.path)
    limit = weight_limit(reduced_range(spec.reduce_range))
    first = to_tensors(inputs.batch(range(min(len(inputs), EXAMPLES))), "cpu")
    rounded, simulation_facts = add_fake_quantization(model, path, spec, limit, first, export_folder)
    remove(export_folder)
    if not simulation_facts["weights"]:
        raise ModelError("no weight in this model would be rounded", where="quantize.train")
    calibration = calibration_batches(ctx, source, spec.calibration_examples)

    def examples() -> Iterator[dict[str, Tensor]]:
        return (to_tensors(batch, ctx.device) for batch in calibration())

    validation = Validation.of(ctx, source.path, ctx.inputs["teacher"])
    float_score = validation.score(model)
    rounded.to(ctx.device).calibrate(examples())
    score_before, original_weights = validation.score(rounded), copy_weights(model)
    curve = recover(ctx, rounded, spec.train, source.path, validation, name="train")
    # As `quantize` will: with the ranges of the trained weights.
    rounded.calibrate(examples())
    score_after = validation.score(rounded)
    rounded.release()
    if score_after < score_before:
        ctx.progress.say("quantize: training did not help; the untrained weights are kept")
        load_weights(model, original_weights)
    save_model(model.cpu(), ctx.out)
    copy_interface(source.path, ctx.out)
    check_saved(model, ctx.out, inputs, "quantize.train")
    facts = {
        **source.facts,
        "parameters": count_parameters(model),
        "quantization_aware": {
            **simulation_facts,
            "validation_score_float": float_score,
            "validation_score_before": score_before,
            "validation_score_trained": score_after,
            "validation_score": max(score_before, score_after),
            "kept": "trained" if score_after >= score_before else "untrained",
        },
    }
    return StepResult(source.form, facts, (curve,))
