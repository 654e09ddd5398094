"""The teacher's predictions."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from compress.losses.contract import Lesson, LossKind, LossSpec


class LogitsLoss(LossSpec):
    """KL divergence to the teacher's softened probabilities, times T^2 (Hinton et al. 2015)."""

    softens: ClassVar[bool] = True

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both models before the softmax."""
    hard: bool = False
    """Cross-entropy with the teacher's most probable class instead (Touvron et al. 2021, DeiT)."""
    standardize: bool = False
    """z-score the logits of both models before the temperature (Sun et al. 2024)."""

    @property
    def reaches_outputs(self) -> bool:
        """It compares them."""
        return True

    def fault(self, lesson: Lesson) -> str | None:
        """Why it cannot be used there; None where it can."""
        return None if lesson.logits else lesson.no_logits


LOGITS = LossKind(
    LogitsLoss,
    "compress.losses.logits.term:LogitsTerm",
    recovers=lambda lesson, temperature: LogitsLoss(temperature=temperature) if lesson.logits else None,
)
