"""Recovery: training after a pass that reduced the model's quality, by the same losses as distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compress.core.artifacts import Artifact
from compress.core.errors import PassError
from compress.core.records import Curve
from compress.encoding.inputs import Inputs, model_inputs, per_row
from compress.losses.contract import LossSpec
from compress.models.io.checkpoints import count_parameters, load_model
from compress.models.io.outputs import outputs_of
from compress.profile.specs.recovery import RecoverySpec, recovery_losses
from compress.profile.specs.training import TrainingSpec
from compress.step import StepContext
from compress.training.batches import to_tensors
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import TrainingModule
from compress.training.objective.weighted_losses import objective_between
from compress.training.signals.answers import (
    SignalSource,
    from_cache,
    from_model,
    is_cached,
    no_signals,
)
from compress.training.signals.segmentation import check_aligned
from compress.training.signals.teachers import step_signals
from compress.training.state import TrainResult
from compress.training.validation import Validation


def recover(
    ctx: StepContext,
    model: nn.Module,
    spec: RecoverySpec,
    interface: Path,
    validation: Validation,
    name: str = "recover",
) -> Curve:
    """Train `model` in place and leave it with the weights of the best validation score.

    Args:
        interface: folder with the model's task and tokenizer files.
        validation: the validation split encoded for the model.
        name: name of the curve and of the checkpoint folder.

    Raises:
        ModelError: a loss cannot compare the model with the step's teacher.
        PassError: there are neither labels nor a teacher.
    """
    teacher = ctx.inputs.get("teacher")
    losses = recovery_losses(spec, ctx.task.kind, has_teacher=teacher is not None)
    inputs = ctx.task.encode(ctx.data.train, interface)
    return train_with(ctx, model, losses, (interface, inputs), spec, validation, name, teacher).curve


def train_with(
    ctx: StepContext,
    model: nn.Module,
    losses: Sequence[LossSpec],
    encoded: tuple[Path, Inputs],
    spec: TrainingSpec,
    validation: Validation,
    name: str,
    teacher: Artifact | None = None,
) -> TrainResult:
    """Train `model` in place with the given losses on the training split; used by `recover`.

    Args:
        encoded: the model's interface folder, and the training examples encoded with it.
        teacher: None: train on the data alone.
    """
    _, inputs = encoded
    signal_source: SignalSource = no_signals
    if teacher is None or not any(loss.needs_teacher for loss in losses):
        objective = objective_between(losses, model, encoded, None, seed=ctx.seed)
    else:
        teacher_inputs = ctx.task.encode(ctx.data.train, teacher.path)
        teacher_model = load_model(teacher.path, allow_code=ctx.allow_code)
        objective = objective_between(
            losses,
            model,
            encoded,
            (teacher_model, teacher_inputs),
            seed=ctx.seed,
            two_heads=_needs_two_heads(losses),
        )
        row_outputs = ctx.task.kind.head != "own"
        check_aligned(
            objective.teacher_needs,
            encoded,
            [("teacher", teacher.path, teacher_inputs)],
            row_outputs=row_outputs,
        )
        if is_cached(ctx.task.kind, losses, spec.epochs):
            # All its signals are cached: free its memory.
            del teacher_model
            signal_source = from_cache(step_signals(ctx, teacher, teacher_inputs, objective.teacher_needs))
        else:
            signal_source = from_model(
                teacher_model.to(ctx.device), objective.teacher_needs, ctx.device, inputs=teacher_inputs
            )
    module = TrainingModule(model, objective.to(ctx.device))
    return train(
        module,
        inputs,
        batch_loss(module, signal_source, per_row(ctx.data.train.labels, inputs)),
        spec,
        validation.score,
        work=ctx.work / name,
        seed=ctx.seed,
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
        name=name,
        metric=ctx.task.kind.metric,
    )


def check_parameter_count(model: nn.Module, predicted: int, where: str) -> None:
    """Check that a reduced model has the predicted number of parameters.

    Raises:
        PassError: it does not.
    """
    parameters = count_parameters(model)
    if parameters != predicted:
        raise PassError(f"{predicted} parameters were predicted, but {parameters} are left", where=where)


def check_saved(model: nn.Module, out: Path, inputs: Inputs, where: str) -> None:
    """Check that the saved model gives the same outputs as the one in memory, bit for bit.

    Raises:
        PassError: it does not.
    """
    # The model was loaded already, so its custom code has been allowed.
    saved = load_model(out, allow_code=True)
    batch = to_tensors(inputs.batch(range(min(len(inputs), 4))), "cpu")
    with torch.inference_mode():
        expected, actual = (
            outputs_of(model.eval()(**model_inputs(batch))),
            outputs_of(saved(**model_inputs(batch))),
        )
    if not torch.equal(expected, actual):
        difference = float((expected - actual).abs().max())
        raise PassError(
            f"the saved model gives different outputs: they differ by {difference:.2g}", where=where
        )


def _needs_two_heads(losses: Sequence[LossSpec]) -> bool:
    """Whether both labels and a teacher supervise the outputs, so that a model with two heads trains one on each."""
    outputs = [loss for loss in losses if loss.reaches_outputs]
    return {loss.needs_teacher for loss in outputs} == {True, False}
