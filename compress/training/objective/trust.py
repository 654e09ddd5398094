"""Of which tokens a teacher can be trusted to say what follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from compress.encoding.inputs import LEARNT
from compress.encoding.tokens import INPUT_IDS
from compress.training.signals.capture import Signals
from compress.training.signals.top_k import TopK


@dataclass(frozen=True)
class Counted:
    """How many tokens are learnt `of` how many, and the highest probability that the teacher gives a word there."""

    kept: int
    of: int
    highest: float


@dataclass(frozen=True)
class TrustedTokens:
    """Leaves out, batch by batch, what is not to be learnt of texts.

    A token is learnt where the teacher holds some word at least as likely as `confidence`, at temperature 1, and, with
    `right`, where that word is the one that follows. `words` are those of the teacher's vocabulary.
    """

    confidence: float
    right: bool
    words: int

    @property
    def name(self) -> str:
        """The signal that is asked for: the teacher's likeliest word."""
        return self._top.name

    @property
    def _top(self) -> TopK:
        return TopK(1, 1.0, self.words)

    def __call__(self, batch: dict[str, Tensor], teacher: Signals) -> dict[str, Tensor]:
        """The batch, with fewer tokens that are learnt."""
        word, confidence = self._likeliest(teacher)
        trusted = confidence >= self.confidence
        if self.right:
            trusted &= word == batch[INPUT_IDS].roll(-1, 1)
        # What is said at a token is of the one behind it.
        left = batch[LEARNT].bool() & functional.pad(trusted[:, :-1], (1, 0))
        return {**batch, LEARNT: left.to(batch[LEARNT].dtype)}

    def counted(self, seen: Iterable[tuple[dict[str, Tensor], Signals]]) -> Counted:
        """How many tokens of some batches it leaves."""
        kept, of, highest = 0, 0, 0.0
        for batch, teacher in seen:
            learnt = batch[LEARNT].bool()
            kept += int(self(batch, teacher)[LEARNT].sum())
            of += int(learnt.sum())
            confidence = self._likeliest(teacher)[1][:, :-1][learnt[:, 1:]]
            highest = float(functional.pad(confidence, (1, 0), value=highest).max())
        return Counted(kept, of, highest)

    def _likeliest(self, teacher: Signals) -> tuple[Tensor, Tensor]:
        """The likeliest word of each token, int64 (n, t), and its probability, float32 (n, t)."""
        said = teacher[self.name]
        ids, logs = self._top.unpack(said.flatten(0, 1))
        return ids[:, 0].view(said.shape[:2]), logs[:, 0].exp().view(said.shape[:2])
