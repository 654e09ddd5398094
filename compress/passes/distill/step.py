"""distill: make a student from the teacher and train it on the teacher's logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compress.data.splits import UNLABELLED
from compress.errors import PassError
from compress.forms import TORCH_FLOAT
from compress.models.checkpoints import count_parameters, load_model, save_model
from compress.models.families import encoder_of
from compress.models.students import make_student, student_shape
from compress.models.vocabulary import trim_embeddings
from compress.passes.distill.material import (
    Words,
    check_segmentation,
    extra_texts,
    joined,
    write_tokenizer,
)
from compress.profile.pass_specs import DistillSpec, LabelsLoss, LogitsLoss, LossEntry
from compress.step import StepContext, StepResult
from compress.tasks.base import Inputs
from compress.training.loop import TrainResult, train
from compress.training.losses import label_cross_entropy, logits_kl
from compress.training.prediction import score
from compress.training.teachers import teacher_logits


def run(ctx: StepContext) -> StepResult:
    """Distil: the student learns from the teacher's logits, on the training texts and on those drawn from them."""
    spec = _spec(ctx)
    teacher_path = ctx.inputs["teacher"].path
    student, words = _student(ctx, spec)
    inputs = _encode(ctx, words)
    teacher_inputs = ctx.task.encode(ctx.data.train, teacher_path)
    extra = None
    if spec.augment is not None:
        extra = extra_texts(
            teacher_path,
            ctx.out,
            encoder_of(load_model(teacher_path)).words.weight.detach().numpy(),
            teacher_inputs,
            inputs,
            spec.augment,
            max_length=ctx.task.max_length,
            seed=ctx.seed,
        )
    logits = teacher_logits(
        lambda: load_model(teacher_path),
        joined(teacher_inputs, extra.teacher if extra else None),
        ctx.work / "teacher",
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
    )
    count = len(ctx.data.train)
    labels = np.full(len(logits), UNLABELLED, dtype=np.int64)
    labels[:count] = ctx.data.train.labels
    trained = _train(
        ctx,
        spec,
        student,
        joined(inputs, extra.student if extra else None),
        DistillLoss([_loss_of(entry) for entry in spec.losses], labels, logits),
        "distill",
    )
    facts = {
        "teacher_train_score": ctx.task.score(np.asarray(logits[:count]), ctx.data.train.labels).value,
        "augmented": len(logits) - count,
    }
    return _finish(ctx, spec, student, words, trained, facts)


def run_control(ctx: StepContext) -> StepResult:
    """The same student without the teacher, to show what the teacher is worth.

    The same shape, first weights, vocabulary and number of steps; the labels alone, no teacher-labelled texts.
    """
    spec = _spec(ctx)
    student, words = _student(ctx, spec)
    copies = 0 if spec.augment is None else spec.augment.copies
    smoothing = next(
        (loss.smoothing for loss in map(_loss_of, spec.losses) if isinstance(loss, LabelsLoss)), 0.0
    )
    loss = DistillLoss([LabelsLoss(smoothing=smoothing)], ctx.data.train.labels, None)
    longer = spec.model_copy(update={"epochs": spec.epochs * (1 + copies)})
    trained = _train(ctx, longer, student, _encode(ctx, words), loss, "control")
    return _finish(ctx, spec, student, words, trained, {"augmented": 0})


class DistillLoss:
    """The weighted sum of the losses of a profile.

    Args:
        labels: int64 (n,), `UNLABELLED` where only the teacher labels.
        logits: the teacher's, float32 (n, labels); None where no loss needs them.
    """

    def __init__(
        self,
        losses: Sequence[LogitsLoss | LabelsLoss],
        labels: NDArray[np.int64],
        logits: NDArray[np.float32] | None,
    ) -> None:
        self.losses = tuple(losses)
        self.labels = torch.from_numpy(np.ascontiguousarray(labels))
        self.logits = logits

    def __call__(self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """The loss of one batch."""
        total = outputs.new_zeros((), dtype=torch.float32)
        for loss in self.losses:
            if isinstance(loss, LabelsLoss):
                labels = self.labels[indices].to(outputs.device)
                total = total + loss.weight * label_cross_entropy(outputs, labels, loss.smoothing)
            elif self.logits is not None:
                goal = torch.from_numpy(self.logits[indices.numpy()]).to(outputs.device)
                total = total + loss.weight * logits_kl(outputs, goal, loss.temperature)
        return total


def _spec(ctx: StepContext) -> DistillSpec:
    if not isinstance(ctx.spec, DistillSpec):
        raise PassError(f"distill cannot run a {type(ctx.spec).__name__}")
    return ctx.spec


def _loss_of(entry: LossEntry) -> LogitsLoss | LabelsLoss:
    loss = getattr(entry, next(iter(type(entry).model_fields)))
    assert isinstance(loss, LogitsLoss | LabelsLoss)
    return loss


def _student(ctx: StepContext, spec: DistillSpec) -> tuple[PreTrainedModel, Words]:
    """The untrained student; its tokenizer and `task.json` stand in `ctx.out` then."""
    source = ctx.inputs["model"].path
    texts = ctx.task.encode(ctx.data.train, source)
    words = write_tokenizer(source, ctx.out, spec.trimmed, texts, ctx.data.labels)
    student = make_student(load_model(source, attention="eager"), spec.student, ctx.seed)
    if words.table is not None and words.kept is not None:
        trim_embeddings(student, words.table, words.kept)
    return student, words


def _encode(ctx: StepContext, words: Words) -> Inputs:
    """The training texts as the student reads them."""
    inputs = ctx.task.encode(ctx.data.train, ctx.out)
    check_segmentation(inputs, ctx.task.encode(ctx.data.train, ctx.inputs["model"].path), words)
    return inputs


def _train(
    ctx: StepContext,
    spec: DistillSpec,
    student: PreTrainedModel,
    inputs: Inputs,
    loss: DistillLoss,
    name: str,
) -> TrainResult:
    validation = ctx.task.encode(ctx.data.validation, ctx.out)
    truth = ctx.data.validation.labels
    return train(
        student,
        inputs,
        loss,
        spec,
        lambda model: score(model, validation, truth, ctx.task, precision=ctx.precision, device=ctx.device),
        work=ctx.work / name,
        seed=ctx.seed,
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
        name=name,
    )


def _finish(
    ctx: StepContext,
    spec: DistillSpec,
    student: PreTrainedModel,
    words: Words,
    trained: TrainResult,
    facts: Mapping[str, object],
) -> StepResult:
    """Save the student and say what was done."""
    shape = student_shape(load_model(ctx.inputs["model"].path), spec.student)
    save_model(student.cpu(), ctx.out)
    known = {
        "parameters": count_parameters(student),
        "vocabulary": encoder_of(student).words.num_embeddings,
        "initialised_from": spec.student.from_,
        "layers_from": list(shape.layers),
        "validation_score": trained.best_score,
        "best_step": trained.best_step,
        "steps": trained.steps,
        "epochs": trained.epochs,
        "precision": ctx.precision,
    }
    return StepResult(TORCH_FLOAT, {**known, **facts}, (trained.curve,))
