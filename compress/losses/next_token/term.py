"""Term of `next_token`: cross-entropy of the next token."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.losses.next_token.spec import NextTokenLoss
from compress.training.loss_functions.chunks import in_chunks
from compress.training.objective.terms import LossInputs, ModelPair, Term


class NextTokenTerm(Term):
    """Cross-entropy with the next token, averaged over the target tokens of a batch."""

    def __init__(self, spec: NextTokenLoss, models: ModelPair) -> None:
        super().__init__({"outputs"})

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        mask = seen.output_mask
        assert mask is not None
        targets = seen.batch["input_ids"].roll(-1, 1)[mask]
        return in_chunks(
            lambda some, words: functional.cross_entropy(some.float(), words),
            seen.student["outputs"],
            targets,
            mask=mask,
        )
