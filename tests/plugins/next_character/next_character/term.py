"""The term of `next_character`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.training.objective.terms import LossInputs, ModelPair, Term
from next_character.alphabet import PAD
from next_character.loss import NextCharacterLoss


class NextCharacterTerm(Term):
    """Cross-entropy with the character that follows, the mean over all characters that are there."""

    def __init__(self, spec: NextCharacterLoss, models: ModelPair) -> None:
        super().__init__({"outputs"})

    def forward(self, seen: LossInputs) -> Tensor:
        """The loss of one batch."""
        guesses = seen.student["outputs"][:, :-1].float()
        following = seen.batch["input_ids"][:, 1:]
        return functional.cross_entropy(guesses.flatten(0, 1), following.flatten(), ignore_index=PAD)

    def counts(self, seen: LossInputs) -> Tensor:
        """Characters that follow another."""
        return (seen.batch["input_ids"][:, 1:] != PAD).sum()
