"""Loss on the true labels."""

from __future__ import annotations

from typing import ClassVar

from compress.core.spec import Fraction
from compress.losses.contract import LossContext, LossKind, LossSpec


class LabelsLoss(LossSpec):
    """Cross-entropy with the true labels; examples labelled only by the teacher are ignored."""

    needs_teacher: ClassVar[bool] = False

    smoothing: Fraction = 0.0
    """Label smoothing."""

    @property
    def reaches_outputs(self) -> bool:
        """Whether the loss acts on the student's outputs."""
        return True

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        return super().fault(context) if context.is_classifier else context.why_no_logits


LABELS = LossKind(LabelsLoss, "compress.losses.labels.term:LabelsTerm")
