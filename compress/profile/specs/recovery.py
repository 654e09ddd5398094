"""Training after a pass that damaged the model, from the outputs or the inner signals of the profile's teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compress.core.errors import PassError
from compress.core.numerics import Precision
from compress.core.spec import Fraction, Spec
from compress.core.task_kind import TaskKind
from compress.losses.contract import Lesson, LossSpec
from compress.losses.table import LOSSES, LossEntry
from compress.profile.specs.training import TrainingSpec


class RecoverySpec(TrainingSpec):
    """Training after pruning or factoring, from the outputs of the profile's teacher: its logits, or of embeddings the
    cosines between the texts of a batch. `losses` says otherwise."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 2
    """Passes over the training examples."""
    dropout: Fraction | None = 0.0
    """Share of activations dropped in training; none by default, as in distillation."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Temperature of the teacher's logits, of a language model 1 where it is unset; with `losses` it stands in them."""
    losses: Annotated[tuple[LossEntry, ...], Field(min_length=1)] | None = None
    """Weighted losses, summed, as in `distill`; unset: `logits` with `temperature`, or of embeddings `similarity` of
    cosines between outputs."""

    @model_validator(mode="after")
    def _one_temperature(self) -> RecoverySpec:
        if self.losses is not None and "temperature" in self.model_fields_set:
            raise ValueError(
                "temperature and losses exclude each other: write it into the loss, as in "
                f"`logits: {{temperature: {self.temperature:g}}}`"
            )
        return self


def recovery_of(spec: Spec) -> tuple[str, RecoverySpec] | None:
    """The key of a pass that trains the model again after changing it, and how; None where there is none."""
    values = ((name, getattr(spec, name)) for name in type(spec).model_fields)
    return next(((name, value) for name, value in values if isinstance(value, RecoverySpec)), None)


def recovery_losses(spec: RecoverySpec, task: TaskKind, *, taught: bool) -> list[LossSpec]:
    """What recovery minimises: the losses of the spec; without any, the first of the table that brings back outputs of
    this task, or without a teacher the loss that trains on the data alone.

    Raises:
        PassError: there are neither labels nor a teacher, or nothing says how outputs are compared.
    """
    if spec.losses is not None:
        return [entry.body for entry in spec.losses]
    # Softened, most of a language model's probability lies outside the words that are kept of its teacher.
    asked = "temperature" in spec.model_fields_set or not task.writes
    temperature = spec.temperature if asked else 1.0
    offered = (kind.recovers(Lesson(task), temperature) for kind in LOSSES.values() if taught)
    found = next((loss for loss in offered if loss is not None), None)
    if found is None and task.label_loss is None:
        raise PassError("without labels a model can only recover from a teacher", where="recover")
    return [found or LOSSES[str(task.label_loss)].spec()]


class RoundedTrainingSpec(RecoverySpec):
    """Training with the rounding of the integer file simulated, from the teacher's outputs."""

    gradient_checkpointing: Literal[False] = False
    """Weights are rounded for one pass alone: layers are not computed once more."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate of AdamW."""
    precision: Precision = "fp32"
    """`bf16`, or `auto` where the processor has it, rounds the simulated integers once more."""


class ScaleTrainingSpec(RecoverySpec):
    """Training of the scales of weights in blocks, from the teacher's outputs."""

    gradient_checkpointing: Literal[False] = False
    """Weights are put together for one pass alone: layers are not computed once more."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    """Passes over the training examples."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW, of factors that are 1 before: 0.001 moves a scale by a thousandth in a step."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Examples a step; of a language model, windows."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the teacher's logits; with `losses` it stands in them."""
