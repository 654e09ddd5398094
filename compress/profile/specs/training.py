"""How to train: the section that fine-tuning, distillation and recovery share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compress.core.numerics import Precision
from compress.core.spec import Fraction, PassSpecBase


class TrainingSpec(PassSpecBase):
    """Fused AdamW with a linear warm-up and decay, best checkpoint by the validation score."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training examples (over the augmented ones, where there are any)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate of AdamW."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Examples a step."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts that a batch is computed in, one after the other, each with the memory of so much fewer examples; their
    gradients are added up, weighted by what is learnt of each, so that a step stays what it was. Losses that compare
    the examples of a batch see those of a part."""
    gradient_checkpointing: bool = False
    """Compute the layers once more for their gradients instead of keeping what they computed: a third more time, and
    memory for one layer at a time. Models of transformers alone."""
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


class LoraSpec(PassSpecBase):
    """Train low-rank corrections of the maps in the layers instead of their weights (LoRA, Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Of each correction."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Corrections are scaled by alpha over the rank; unset: twice the rank."""
    dropout: Fraction = 0.0
    """Share of what a correction reads that is dropped while training."""
    layers: Literal["all", "attention", "feed_forward"] = "all"
    """Which maps of the layers are corrected."""


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
    lora: LoraSpec | None = None
    """Train corrections of low rank alone, which are added to the weights in the end; unset: train all weights."""
    pack: bool = False
    """Language models: texts stand side by side in blocks of `data.max_length` tokens, none of which sees another, and
    `batch_size` counts blocks; unset: texts are padded to the longest of their batch."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds its head and the order of its batches; unset: the profile's."""
