"""The loss that trains on the documents alone, said to compress."""

from __future__ import annotations

from typing import ClassVar

from compress.losses.contract import LossContext, LossKind, LossSpec


class NextCharacterLoss(LossSpec):
    """Cross-entropy with the character that follows."""

    needs_teacher: ClassVar[bool] = False

    @property
    def reaches_outputs(self) -> bool:
        """It compares them with the documents."""
        return True

    def fault(self, context: LossContext) -> str | None:
        """Why it cannot be used there; None where it can."""
        return (
            None
            if context.has_logits and not context.is_classifier
            else "only models of characters have a next character"
        )


NEXT_CHARACTER = LossKind(NextCharacterLoss, "next_character.term:NextCharacterTerm")
