"""Recovery training after a pass that damaged the model, against outputs or hidden states of the profile's teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compress.core.errors import PassError
from compress.core.numerics import Precision
from compress.core.spec import Fraction, Spec
from compress.core.task_kind import TaskKind
from compress.losses.contract import LossContext, LossSpec
from compress.losses.table import LOSSES, LossEntry
from compress.profile.specs.training import TrainingSpec


class RecoverySpec(TrainingSpec):
    """Training after pruning or factoring, by default from the outputs of the profile's teacher: its logits, or for
    sentence embedding the cosine similarities between the texts of a batch."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 2
    """Passes over the training examples."""
    dropout: Fraction | None = 0.0
    """Dropout rate; 0 by default, as in distillation; `null`: the rates of the model's config."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Temperature of the teacher's logits; for language models 1 unless set. Excludes `losses`, where `logits` has its
    own."""
    losses: Annotated[tuple[LossEntry, ...], Field(min_length=1)] | None = None
    """Weighted losses, summed, as in `distill`; unset: `logits` with `temperature`, or for sentence embedding
    `similarity` of `cosines` between `outputs`."""

    @model_validator(mode="after")
    def _check_temperature(self) -> RecoverySpec:
        if self.losses is not None and "temperature" in self.model_fields_set:
            raise ValueError(
                "temperature and losses cannot be combined: set the temperature in the loss, as in "
                f"`logits: {{temperature: {self.temperature:g}}}`"
            )
        return self


def recovery_of(spec: Spec) -> tuple[str, RecoverySpec] | None:
    """Return the field of a pass that configures recovery training, with its value; None if there is none."""
    values = ((name, getattr(spec, name)) for name in type(spec).model_fields)
    return next(((name, value) for name, value in values if isinstance(value, RecoverySpec)), None)


def recovery_losses(spec: RecoverySpec, task: TaskKind, *, has_teacher: bool) -> list[LossSpec]:
    """Return the losses of recovery training.

    By default the first registered loss that restores the outputs of this task; without a teacher, the task's loss on
    labels.

    Raises:
        PassError: there are neither labels nor a teacher, or no registered loss compares outputs of this task.
    """
    if spec.losses is not None:
        return [entry.body for entry in spec.losses]
    # Only the top logits of a language-model teacher are kept; softened, most of its probability would lie
    # outside them.
    set_by_user = "temperature" in spec.model_fields_set or not task.generates
    temperature = spec.temperature if set_by_user else 1.0
    candidates = (
        kind.recovery_default(LossContext(task), temperature) for kind in LOSSES.values() if has_teacher
    )
    default_loss = next((loss for loss in candidates if loss is not None), None)
    if default_loss is None and task.label_loss is None:
        raise PassError("without labels a model can only recover from a teacher", where="recover")
    return [default_loss or LOSSES[str(task.label_loss)].spec()]


class RoundedTrainingSpec(RecoverySpec):
    """Quantization-aware distillation: training from the teacher's outputs with 8-bit rounding simulated (Jacob et al.
    2018; Polino et al. 2018). If it lowers the validation score, the weights before it are kept."""

    gradient_checkpointing: Literal[False] = False
    """Not available: weights are rounded for one pass, so layers cannot be recomputed."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate of AdamW."""
    precision: Precision = "fp32"
    """`bf16`, or `auto` where the hardware supports it, rounds the simulated integers once more."""


class ScaleTrainingSpec(RecoverySpec):
    """Training of the block scales from the teacher's outputs. If it lowers the validation score, the scales before it
    are kept."""

    gradient_checkpointing: Literal[False] = False
    """Not available: weights are assembled for one pass, so layers cannot be recomputed."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    """Passes over the training examples."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW, for factors that start at 1: 0.001 changes a scale by a thousandth per step."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Examples per step; for language models, windows."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the teacher's logits. Excludes `losses`, where `logits` has its own."""
