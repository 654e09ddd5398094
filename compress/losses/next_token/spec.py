"""The loss of language models on the texts alone."""

from __future__ import annotations

from typing import ClassVar

from compress.losses.contract import Lesson, LossKind, LossSpec


class NextTokenLoss(LossSpec):
    """Cross-entropy of next-token prediction, for language models."""

    compares: ClassVar[bool] = False

    @property
    def reaches_outputs(self) -> bool:
        """Whether outputs learn from it: they do."""
        return True

    def fault(self, lesson: Lesson) -> str | None:
        """Why it cannot be used there; None where it can, as far as a profile tells."""
        return None if lesson.task.label_loss == "next_token" else "only language models have a next token"


NEXT_TOKEN = LossKind(NextTokenLoss, "compress.losses.next_token.term:NextTokenTerm")
