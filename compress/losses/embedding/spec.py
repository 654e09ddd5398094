"""Loss on the output of the embedding layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.losses.contract import LossKind, LossSpec


class EmbeddingLoss(LossSpec):
    """Output of the embedding layer against the teacher's, through a learned projection where widths differ
    (TinyBERT)."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """Distance between two embeddings: mean squared error or one minus the cosine."""

    @property
    def needs(self) -> Literal["layers"]:
        """The part of both models that it compares."""
        return "layers"


EMBEDDING = LossKind(EmbeddingLoss, "compress.losses.embedding.term:EmbeddingTerm")
