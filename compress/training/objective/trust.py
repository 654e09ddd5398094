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
class SelectionCounts:
    """How many target tokens are `selected` `total` how many, and the highest probability that the teacher assigns
    there."""

    selected: int
    total: int
    max_confidence: float


@dataclass(frozen=True)
class TrustedTokens:
    """Removes target tokens on which the teacher is not to be trusted, batch by batch.

    A token is kept if the teacher's most probable token has at least probability `confidence`, at temperature
    1, and, with `must_be_correct`, if it is the actual next token. `vocabulary_size`: size of the teacher's vocabulary.
    """

    confidence: float
    must_be_correct: bool
    vocabulary_size: int

    @property
    def name(self) -> str:
        """Name of the needed signal: the teacher's top-1 token."""
        return self._top.name

    @property
    def _top(self) -> TopK:
        return TopK(1, 1.0, self.vocabulary_size)

    def __call__(self, batch: dict[str, Tensor], teacher: Signals) -> dict[str, Tensor]:
        """Return the batch with the reduced set of target tokens."""
        top_token, confidence = self._top_prediction(teacher)
        trusted = confidence >= self.confidence
        if self.must_be_correct:
            trusted &= top_token == batch[INPUT_IDS].roll(-1, 1)
        # The prediction at a token is for the next one.
        loss_mask = batch[LOSS_MASK].bool() & functional.pad(trusted[:, :-1], (1, 0))
        return {**batch, LOSS_MASK: loss_mask.to(batch[LOSS_MASK].dtype)}

    def count_selected(self, batches: Iterable[tuple[dict[str, Tensor], Signals]]) -> SelectionCounts:
        """Count the target tokens that are kept in some batches."""
        selected, total, max_confidence = 0, 0, 0.0
        for batch, teacher in batches:
            loss_mask = batch[LOSS_MASK].bool()
            selected += int(self(batch, teacher)[LOSS_MASK].sum())
            total += int(loss_mask.sum())
            confidence = self._top_prediction(teacher)[1][:, :-1][loss_mask[:, 1:]]
            max_confidence = float(functional.pad(confidence, (1, 0), value=max_confidence).max())
        return SelectionCounts(selected, total, max_confidence)

    def _top_prediction(self, teacher: Signals) -> tuple[Tensor, Tensor]:
        """Return the teacher's top next token at each position, int64 (n, t), and its probability, float32."""
        packed = teacher[self.name]
        ids, log_probabilities = self._top.unpack(packed.flatten(0, 1))
        return ids[:, 0].view(packed.shape[:2]), log_probabilities[:, 0].exp().view(packed.shape[:2])
