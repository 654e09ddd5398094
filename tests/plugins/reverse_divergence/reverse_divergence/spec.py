"""The loss, said to compress."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.losses.contract import LossContext, LossKind, LossSpec


class ReverseLoss(LossSpec):
    """KL divergence from the student's predictions to the teacher's (Gu et al. 2024, MiniLLM)."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits of both models before the softmax."""

    @property
    def reaches_outputs(self) -> bool:
        """It compares them."""
        return True

    def fault(self, context: LossContext) -> str | None:
        """Why it cannot be used there; None where it can."""
        return None if context.has_logits else "only logits have a divergence"


REVERSE = LossKind(ReverseLoss, "reverse_divergence.term:ReverseTerm")
