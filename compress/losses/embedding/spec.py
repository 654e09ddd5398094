"""The embedding layer's output."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.losses.contract import LossKind, LossSpec


class EmbeddingLoss(LossSpec):
    """The output of the embedding layer against the teacher's, through a learned projection (TinyBERT)."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """How two embeddings are compared."""

    @property
    def needs(self) -> Literal["layers"]:
        """What of both models it compares."""
        return "layers"


EMBEDDING = LossKind(EmbeddingLoss, "compress.losses.embedding.term:EmbeddingTerm")
