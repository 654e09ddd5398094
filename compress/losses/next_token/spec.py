"""Next-token prediction loss of language models."""

from __future__ import annotations

from typing import ClassVar

from compress.losses.contract import LossContext, LossKind, LossSpec


class NextTokenLoss(LossSpec):
    """Cross-entropy of next-token prediction, for language models."""

    needs_teacher: ClassVar[bool] = False

    @property
    def reaches_outputs(self) -> bool:
        """Whether the loss acts on the student's outputs."""
        return True

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        return None if context.task.label_loss == "next_token" else "only language models have a next token"


NEXT_TOKEN = LossKind(NextTokenLoss, "compress.losses.next_token.term:NextTokenTerm")
