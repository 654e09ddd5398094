"""How to train: the section that finetune, distill and recovery share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compress.core.numerics import Precision
from compress.core.spec import PassSpecBase

Fraction = Annotated[float, Field(ge=0, lt=1)]


class TrainingSpec(PassSpecBase):
    """Fused AdamW with a linear warm-up and decay, best checkpoint by the validation score."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training examples (over the augmented ones, where there are any)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate of AdamW."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Examples a step."""
    warmup: Fraction = 0.1
    """Fraction of the steps over which the learning rate rises to its peak; it falls linearly to 0 after."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay; biases and norms have none."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    dropout: Fraction | None = None
    """Dropout rate while training; unset: the rates of the model's config."""
    evaluations_per_epoch: Annotated[int, Field(ge=1)] = 1
    """How often the validation split is scored in an epoch."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many evaluations without a better validation score; unset: never stop early."""
    precision: Precision = "auto"
    """`auto`: bf16 autocast where the processor has it, else fp32."""


class FinetuneSpec(TrainingSpec):
    """Train the teacher on the labels of the data."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training examples."""
    smoothing: Fraction = 0.0
    """Label smoothing. It may help the teacher's own score; students of such a teacher may do worse (Mueller 2019)."""
    class_weights: Literal["balanced"] | None = None
    """`balanced`: an example weighs n / (labels * examples of its label), so that each label weighs the same in all."""
    augment: bool = False
    """Images: train on randomly shifted copies, as `distill.augment` draws them by default."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds its head and the order of its batches; unset: the profile's."""


class RecoverySpec(TrainingSpec):
    """Training after pruning or factoring, from the outputs of the profile's teacher: its logits, or of embeddings the
    cosines between the texts of a batch."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 2
    """Passes over the training examples."""
    dropout: Fraction | None = 0.0
    """Share of activations dropped in training; none by default, as in distillation."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Temperature of the teacher's logits."""


class RoundedTrainingSpec(RecoverySpec):
    """Training with the rounding of the integer file simulated, from the teacher's outputs."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate of AdamW."""
    precision: Precision = "fp32"
    """`bf16`, or `auto` where the processor has it, rounds the simulated integers once more."""
