"""Attention loss, layer by layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from compress.losses.contract import LayerMap, LossContext, LossKind, LossSpec


class AttentionLoss(LossSpec):
    """Attention of the student's layers against the teacher's: token attention of transformers (TinyBERT), or spatial
    attention maps of convolutions (Zagoruyko and Komodakis 2017)."""

    short: ClassVar[str | None] = "of"

    of: Literal["scores", "probabilities", "spatial"] = "probabilities"
    """`scores`: before the softmax; `probabilities`: after it; `spatial`: maps of convolution outputs."""
    distance: Literal["mse", "kl"] = "mse"
    """Distance between two attentions; `kl` for `probabilities` only."""
    layers: LayerMap = "uniform"
    heads: Literal["mapped", "averaged"] = "averaged"
    """`mapped`: head by head, for equal numbers of heads; `averaged`: the mean over the heads of each model."""

    @model_validator(mode="after")
    def _kl_of_probabilities(self) -> AttentionLoss:
        if self.distance == "kl" and self.of != "probabilities":
            raise ValueError(f"distance: kl compares probabilities; it cannot compare {self.of}")
        return self

    @property
    def needs(self) -> Literal["attention", "convolutions"]:
        """The part of both models that it compares."""
        return "convolutions" if self.of == "spatial" else "attention"

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        if self.of == "spatial" and context.input_kind == "texts":
            return "text models have no spatial maps: use `of: scores` or `of: probabilities`"
        return super().fault(context)


ATTENTION = LossKind(AttentionLoss, "compress.losses.attention.term:attention_term")
