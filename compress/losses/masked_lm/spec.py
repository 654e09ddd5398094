"""Masked language modelling loss."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from compress.losses.contract import LossContext, LossKind, LossSpec


class MaskedLmLoss(LossSpec):
    """Masked language modelling of the student's inputs, in addition to the other losses (DistilBERT, Sanh et al.
    2019)."""

    needs_teacher: ClassVar[bool] = False

    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the tokens that are masked and predicted."""

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        return "images have no tokens to mask" if context.input_kind == "images" else super().fault(context)


MASKED_LM = LossKind(MaskedLmLoss, "compress.losses.masked_lm.term:MaskedLmTerm")
