"""Selection of the target tokens on which the teacher is confident."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from compress.encoding.inputs import LOSS_MASK
from compress.encoding.tokens import INPUT_IDS
from compress.training.signals.capture import Signals
from compress.training.signals.top_k import TopK


@dataclass(frozen=True)
class Counted:
    """How many target tokens are `kept` `of` how many, and the highest probability that the teacher assigns there."""

    kept: int
    of: int
    highest: float


@dataclass(frozen=True)
class TrustedTokens:
    """Removes target tokens on which the teacher is not to be trusted, batch by batch.

    A token is kept if the teacher's most probable token has at least probability `confidence`, at temperature
    1, and, with `right`, if it is the actual next token. `words`: size of the teacher's vocabulary.
    """

    confidence: float
    right: bool
    words: int

    @property
    def name(self) -> str:
        """Name of the needed signal: the teacher's top-1 token."""
        return self._top.name

    @property
    def _top(self) -> TopK:
        return TopK(1, 1.0, self.words)

    def __call__(self, batch: dict[str, Tensor], teacher: Signals) -> dict[str, Tensor]:
        """Return the batch with the reduced set of target tokens."""
        word, confidence = self._likeliest(teacher)
        trusted = confidence >= self.confidence
        if self.right:
            trusted &= word == batch[INPUT_IDS].roll(-1, 1)
        # The prediction at a token is for the next one.
        left = batch[LOSS_MASK].bool() & functional.pad(trusted[:, :-1], (1, 0))
        return {**batch, LOSS_MASK: left.to(batch[LOSS_MASK].dtype)}

    def counted(self, seen: Iterable[tuple[dict[str, Tensor], Signals]]) -> Counted:
        """Count the target tokens that are kept in some batches."""
        kept, of, highest = 0, 0, 0.0
        for batch, teacher in seen:
            learnt = batch[LOSS_MASK].bool()
            kept += int(self(batch, teacher)[LOSS_MASK].sum())
            of += int(learnt.sum())
            confidence = self._likeliest(teacher)[1][:, :-1][learnt[:, 1:]]
            highest = float(functional.pad(confidence, (1, 0), value=highest).max())
        return Counted(kept, of, highest)

    def _likeliest(self, teacher: Signals) -> tuple[Tensor, Tensor]:
        """Return the teacher's top next token at each position, int64 (n, t), and its probability, float32."""
        said = teacher[self.name]
        ids, logs = self._top.unpack(said.flatten(0, 1))
        return ids[:, 0].view(said.shape[:2]), logs[:, 0].exp().view(said.shape[:2])
