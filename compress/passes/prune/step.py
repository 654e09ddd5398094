"""prune: remove heads and feed-forward width, or channels, by importance, then recover by training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.artifacts import copy_interface
from compress.errors import PassError
from compress.forms import TORCH_FLOAT, Structure
from compress.models.checkpoints import count_parameters, load_model, save_model
from compress.models.outputs import outputs_of
from compress.passes.prune.prediction import predicted_parameters
from compress.passes.prune.removal import check_request, prune
from compress.profile.pass_specs import PruneSpec
from compress.records import Curve
from compress.step import StepContext, StepResult
from compress.tasks.base import Inputs, Truth
from compress.training.batches import to_tensors
from compress.training.heal import recover
from compress.training.prediction import score
from compress.training.references import truth_beside


def run(ctx: StepContext) -> StepResult:
    """Prune every layer by the same fractions, check the promised size, recover, save and read back.

    Raises:
        PassError: a fraction removes nothing or everything, the parameters are not those predicted, or the
            saved model does not give the same outputs.
        ModelError: the model does not have what is to be removed.
    """
    spec = ctx.spec
    assert isinstance(spec, PruneSpec)
    source = ctx.inputs["model"].path
    model = load_model(source).to(ctx.device)
    check_request(model, spec.remove)
    promised = predicted_parameters(source, spec.remove, spec.round_to)
    before = count_parameters(model)
    inputs = ctx.task.encode(ctx.data.train, source)
    labels = torch.from_numpy(ctx.data.train.labels) if ctx.task.labelled else None
    removed, planned = prune(model, inputs, labels, spec, ctx.seed, ctx.device)
    parameters = count_parameters(model)
    predicted = planned if promised is None else promised
    if parameters != predicted:
        raise PassError(f"{predicted} parameters were predicted, but {parameters} are left", where="prune")
    facts: dict[str, Any] = {
        "parameters": parameters,
        "parameters_predicted": predicted,
        "parameters_before": before,
        "importance": spec.importance,
        "layers": removed,
    }
    truth = _validation_truth(ctx)
    curves: tuple[Curve, ...] = ()
    if spec.recover is not None:
        facts["validation_score_before_recovery"] = _validation_score(ctx, model, truth)
        result = recover(
            model,
            ctx.inputs.get("teacher"),
            ctx.task,
            ctx.data,
            spec.recover,
            tokenizer=source,
            work=ctx.work,
            shared=ctx.shared,
            seed=ctx.seed,
            precision=ctx.precision,
            device=ctx.device,
            progress=ctx.progress,
        )
        curves = (result.curve,)
    facts["validation_score"] = _validation_score(ctx, model, truth)
    save_model(model.cpu(), ctx.out)
    copy_interface(source, ctx.out)
    _check_saved(ctx, model, inputs)
    return StepResult(TORCH_FLOAT.with_(structure=Structure.PRUNED), facts, curves)


def _validation_truth(ctx: StepContext) -> Truth:
    """What the validation split is scored against."""
    return truth_beside(
        ctx.inputs.get("teacher", ctx.inputs["model"]),
        ctx.task,
        ctx.data.validation,
        shared=ctx.shared,
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
    )


def _validation_score(ctx: StepContext, model: nn.Module, truth: Truth) -> float:
    inputs = ctx.task.encode(ctx.data.validation, ctx.inputs["model"].path)
    return score(model, inputs, truth, ctx.task, precision=ctx.precision, device=ctx.device)


def _check_saved(ctx: StepContext, model: nn.Module, inputs: Inputs) -> None:
    """What was saved gives the same outputs, bit for bit."""
    batch = to_tensors(inputs.batch(range(min(len(inputs), 4))), "cpu")
    with torch.inference_mode():
        expected, found = outputs_of(model.eval()(**batch)), outputs_of(load_model(ctx.out)(**batch))
    if not torch.equal(expected, found):
        difference = float((expected - found).abs().max())
        raise PassError(
            f"the saved model gives other outputs: they differ by {difference:.2g}", where="prune"
        )
