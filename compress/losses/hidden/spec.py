"""Loss on hidden states, layer by layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.losses.contract import LayerMap, LossKind, LossSpec


class HiddenLoss(LossSpec):
    """Hidden states of the student's layers (feature maps of convolutional models) against the teacher's, through a
    learned projection where widths differ (FitNets, Romero et al. 2015; TinyBERT, Jiao et al. 2020). Of language
    models, at the positions that predict a learnt token."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """Distance between two hidden states: mean squared error or one minus the cosine."""
    layers: LayerMap = "uniform"

    @property
    def needs(self) -> Literal["layers"]:
        """The part of both models that it compares."""
        return "layers"


HIDDEN = LossKind(HiddenLoss, "compress.losses.hidden.term:hidden_term")
