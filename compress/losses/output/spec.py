"""Loss on the models' outputs as vectors."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.losses.contract import LossContext, LossKind, LossSpec


class OutputLoss(LossSpec):
    """The model's outputs against the teacher's, for sentence embeddings (Reimers and Gurevych 2020), through a learned
    projection where widths differ."""

    short: ClassVar[str | None] = "distance"

    distance: Literal["mse", "cosine"] = "mse"
    """Distance between two outputs: mean squared error or one minus the cosine."""

    @property
    def reaches_outputs(self) -> bool:
        """Whether the loss acts on the student's outputs."""
        return True

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        if context.has_logits:
            return "logits are compared by `logits`; `output` is for embeddings"
        return super().fault(context)


OUTPUT = LossKind(OutputLoss, "compress.losses.output.term:OutputTerm")
