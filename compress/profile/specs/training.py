"""Training settings: the section shared by fine-tuning, distillation and recovery."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compress.core.numerics import Precision
from compress.core.spec import Fraction, PassSpecBase, Seed


class TrainingSpec(PassSpecBase):
    """Fused AdamW with linear warm-up and decay; the checkpoint with the best validation score is kept."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training examples (over the augmented ones, where there are any)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate of AdamW."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Examples per step."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Gradient accumulation: number of parts that a batch is processed in, one after another, to save memory. Gradients
    are added up, each mean weighted by what it is over in a part (examples, labelled ones, tokens), so that the step is
    the same. Losses that compare the examples of a batch see one part at a time."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass instead of storing their activations: a third more time, and activation
    memory for one layer at a time. Transformers models only."""
    warmup: Fraction = 0.1
    """Fraction of the steps over which the learning rate rises to its peak; it then falls linearly to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay; biases, norms and embeddings have none."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this L2 norm."""
    dropout: Fraction | None = None
    """Dropout rate; unset: the rates of the model's config."""
    evaluations_per_epoch: Annotated[int, Field(ge=1)] = 1
    """How often per epoch the validation split is scored; it is always scored after the last step."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations without a better validation score; unset: never stop early."""
    precision: Precision = "auto"
    """`auto`: bf16 autocast where the hardware supports it, else fp32."""


class LoraSpec(PassSpecBase):
    """Train low-rank updates of the linear layers instead of their weights (LoRA, Hu et al. 2021). A classifier's head
    is trained in full."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rank of each update."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Updates are scaled by alpha over the rank; unset: twice the rank."""
    dropout: Fraction = 0.0
    """Dropout rate on the input of each update."""
    layers: Literal["all", "attention", "feed_forward"] = "all"
    """Which linear layers get an update: all of the transformer layers, or those of attention or of the feed-forward
    part."""


class FinetuneSpec(TrainingSpec):
    """Train the teacher on the data: on its labels, or with language models on its texts."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training examples."""
    smoothing: Fraction = 0.0
    """Classification only: label smoothing. It may raise the teacher's own score; students of such a teacher may do
    worse (Mueller et al. 2019)."""
    class_weights: Literal["balanced"] | None = None
    """Classification only; `balanced`: an example is weighted by n / (labels * examples of its label), so that all
    labels have the same total weight. Unset: all examples weigh the same."""
    augment: bool = False
    """Images only: train on randomly shifted copies, as drawn by the defaults of `distill.augment`."""
    lora: LoraSpec | None = None
    """Train LoRA updates only and merge them into the weights afterwards; unset: train all weights."""
    pack: bool = False
    """Language models only: pack texts into blocks of `data.max_length` tokens without attention between texts;
    `batch_size` then counts blocks. `false`: texts are padded to the longest of their batch."""
    seed: Seed | None = None
    """Seed of a new head and of the order of the batches; unset: the profile's."""
