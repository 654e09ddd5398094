"""Hidden states, layer by layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.losses.contract import LayerMap, LossKind, LossSpec


class HiddenLoss(LossSpec):
    """Hidden states of the student's layers against the teacher's, through a learned projection where widths differ
    (Romero et al. 2015, FitNets; Jiao et al. 2020, TinyBERT); of a language model at the tokens before those that are
    learnt."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """How two hidden states are compared."""
    layers: LayerMap = "uniform"

    @property
    def needs(self) -> Literal["layers"]:
        """What of both models it compares."""
        return "layers"


HIDDEN = LossKind(HiddenLoss, "compress.losses.hidden.term:hidden_term")
