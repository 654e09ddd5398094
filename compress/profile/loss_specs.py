"""The losses of a distillation: one spec each, written as `{logits: {...}}` in a profile."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.entries import Entry, OneKey
from compress.core.spec import PassSpecBase
from compress.profile.training_spec import Fraction

Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(gt=0)]
LayerNumber = Annotated[int, Field(ge=0)]
LayerMap = Annotated[
    Literal["uniform", "last"] | tuple[tuple[LayerNumber, LayerNumber], ...],
    Field(
        description="Which layer learns from which. `uniform`: evenly spread, the last from the last; `last`: the last "
        "alone; or pairs [student layer, teacher layer], 0 the lowest."
    ),
]
"""`uniform`: student layer i of m learns from layer (i + 1) * n / m - 1 of the teacher's n."""


class LossSpec(PassSpecBase):
    """A loss with its weight; a word alone stands for its `short` key: `hidden: cosine`."""

    short: ClassVar[str | None] = None

    weight: Weight = 1.0
    """Factor of this loss in the sum."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {cls.short: value} if cls.short is not None and isinstance(value, str) else value


class LogitsLoss(LossSpec):
    """KL divergence to the teacher's softened probabilities, times T^2 (Hinton et al. 2015)."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both models before the softmax."""
    hard: bool = False
    """Cross-entropy with the teacher's most probable class instead (Touvron et al. 2021, DeiT)."""
    standardize: bool = False
    """z-score the logits of both models before the temperature (Sun et al. 2024)."""


class LabelsLoss(LossSpec):
    """Cross-entropy with the true labels; examples that only the teacher labelled take no part in it."""

    smoothing: Fraction = 0.0
    """Label smoothing."""


class MaskedLmLoss(LossSpec):
    """Masked language modelling of the student's inputs, beside the other losses (Sanh et al. 2019, DistilBERT)."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are hidden and guessed."""


class HiddenLoss(LossSpec):
    """Hidden states of the student's layers against the teacher's, through a learned projection where widths differ
    (Romero et al. 2015, FitNets; Jiao et al. 2020, TinyBERT)."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """How two hidden states are compared."""
    layers: LayerMap = "uniform"


class EmbeddingLoss(LossSpec):
    """The output of the embedding layer against the teacher's, through a learned projection (TinyBERT)."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """How two embeddings are compared."""


class AttentionLoss(LossSpec):
    """Attention of the student's layers against the teacher's: token attention of transformers (TinyBERT), or
    spatial attention maps of convolutions (Zagoruyko and Komodakis 2017)."""

    short: ClassVar[str | None] = "of"

    of: Literal["scores", "probabilities", "spatial"] = "probabilities"
    """`scores` before the softmax, `probabilities` after it, `spatial`: maps of convolution outputs."""
    distance: Literal["mse", "kl"] = "mse"
    """How two attentions are compared; `kl` is for probabilities."""
    layers: LayerMap = "uniform"
    heads: Literal["mapped", "averaged"] = "averaged"
    """`mapped`: head by head, for equal numbers of heads; `averaged`: the mean over the heads of each."""

    @model_validator(mode="after")
    def _kl_of_probabilities(self) -> AttentionLoss:
        if self.distance == "kl" and self.of != "probabilities":
            raise ValueError(f"distance: kl compares probabilities; it cannot compare {self.of}")
        return self


class RelationLoss(LossSpec):
    """Self-attention relations of one layer, whatever the widths (Wang et al. 2020, MiniLM; 2021, MiniLMv2)."""

    relations: Annotated[tuple[Literal["qk", "qq", "kk", "vv"], ...], Field(min_length=1)] = ("qk", "vv")
    """Scaled products of queries, keys and values: `qk` and `vv` are MiniLM's, `qq`, `kk`, `vv` MiniLMv2's."""
    heads: Positive | None = None
    """Relation heads that both models are cut into; unset: the teacher's number of heads, or the largest below it that
    divides the widths of both."""
    layers: LayerMap = "last"


class SimilarityLoss(LossSpec):
    """Relations between the examples of a batch, in the outputs or the pooled last hidden state: distances and angles
    (Park et al. 2019, RKD) or the matrix of similarities (Tung and Mori 2019)."""

    short: ClassVar[str | None] = "of"

    of: Literal["distance", "angle", "matrix", "cosines"] = "matrix"
    """Which relation is kept; `cosines` is the `matrix` of unit vectors, times the examples of a batch: it does not
    fall as batches grow."""
    representation: Literal["pooled", "outputs"] = "pooled"
    """`pooled`: the mean of the last hidden state or feature map; `outputs`: what the model puts out."""


class ContrastiveLoss(LossSpec):
    """The student's representation of an example must tell the teacher's of the same example from those of others
    (Tian et al. 2020, CRD)."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosines."""
    dimensions: Positive = 128
    """Both representations are projected to so many dimensions."""
    negatives: Annotated[int, Field(ge=0)] = 1024
    """Remembered teacher representations of other examples, beside those of the batch."""


class OutputLoss(LossSpec):
    """What the model puts out against what the teacher puts out: for sentence embeddings (Reimers and Gurevych 2020);
    through a learned projection where widths differ."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """How two outputs are compared."""


LOSSES = OneKey(
    Entry[LossSpec],
    {
        "logits": LogitsLoss,
        "labels": LabelsLoss,
        "masked_lm": MaskedLmLoss,
        "hidden": HiddenLoss,
        "embedding": EmbeddingLoss,
        "attention": AttentionLoss,
        "relation": RelationLoss,
        "similarity": SimilarityLoss,
        "contrastive": ContrastiveLoss,
        "output": OutputLoss,
    },
)
LossEntry = Annotated[Entry[LossSpec], LOSSES]
