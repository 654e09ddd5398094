"""Loss on relations between the examples of a batch."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.losses.contract import LossContext, LossKind, LossSpec


class SimilarityLoss(LossSpec):
    """Relations between the examples of a batch, in the outputs or the pooled last hidden state: distances and angles
    (RKD, Park et al. 2019) or the matrix of similarities (Tung and Mori 2019)."""

    short: ClassVar[str | None] = "of"

    of: Literal["distance", "angle", "matrix", "cosines"] = "matrix"
    """Relation to preserve; `cosines` is the `matrix` of unit vectors, multiplied by the batch size so that it does not
    shrink as batches grow."""
    representation: Literal["pooled", "outputs"] = "pooled"
    """`pooled`: mean of the last hidden state or feature map; `outputs`: the model's outputs."""

    @property
    def reaches_outputs(self) -> bool:
        """Whether the loss acts on the student's outputs."""
        return self.representation == "outputs"

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        if self.reaches_outputs and not context.one_row_per_example:
            return (
                f"outputs of {context.task.name} are not one vector per example: use `representation: pooled`"
            )
        return super().fault(context)


def _embedding_recovery(context: LossContext, temperature: float) -> LossSpec | None:
    pooled = context.task.head == "pooled"
    return SimilarityLoss(of="cosines", representation="outputs") if pooled else None


SIMILARITY = LossKind(
    SimilarityLoss, "compress.losses.similarity.term:SimilarityTerm", recovery_default=_embedding_recovery
)
