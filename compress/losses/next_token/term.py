"""Binds the cross-entropy of the next token to the outputs of a student."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.losses.next_token.spec import NextTokenLoss
from compress.training.loss_functions.chunks import in_chunks
from compress.training.objective.terms import Models, Seen, Term


class NextTokenTerm(Term):
    """Cross-entropy with the token that follows: the mean over the tokens of a batch that are learnt."""

    def __init__(self, spec: NextTokenLoss, models: Models) -> None:
        super().__init__({"outputs"})

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch: outputs (n, tokens, words), `learnt` int64 (n, tokens)."""
        learnt = seen.compared
        assert learnt is not None
        goal = seen.batch["input_ids"].roll(-1, 1)[learnt]
        return in_chunks(
            lambda some, words: functional.cross_entropy(some.float(), words),
            seen.student["outputs"],
            goal,
            compared=learnt,
        )
