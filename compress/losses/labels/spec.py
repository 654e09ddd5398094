"""The true labels."""

from __future__ import annotations

from typing import ClassVar

from compress.core.spec import Fraction
from compress.losses.contract import Lesson, LossKind, LossSpec


class LabelsLoss(LossSpec):
    """Cross-entropy with the true labels; examples labelled only by the teacher are ignored."""

    compares: ClassVar[bool] = False

    smoothing: Fraction = 0.0
    """Label smoothing."""

    @property
    def reaches_outputs(self) -> bool:
        """It compares them with the labels."""
        return True

    def fault(self, lesson: Lesson) -> str | None:
        """Why it cannot be used there; None where it can, as far as a profile tells."""
        return super().fault(lesson) if lesson.labelled else lesson.no_logits


LABELS = LossKind(LabelsLoss, "compress.losses.labels.term:LabelsTerm")
