"""Of which tokens a teacher can be trusted to say what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.encoding.inputs import LEARNT
from compress.encoding.tokens import INPUT_IDS
from compress.training.losses.chunks import NUMBERS
from compress.training.signals.capture import Signals
from compress.training.signals.top_k import TopK


class TrustedTokens(nn.Module):
    """Leaves out, batch by batch, what is not to be learnt of texts; a checkpoint holds how much that was.

    A token is learnt where the teacher holds some word at least as likely as `confidence`, at temperature 1, and, with
    `right`, where that word is the one that follows.

    Args:
        words: of the teacher's vocabulary.
        whole: read the teacher's `outputs`, of which several were averaged, instead of its likeliest word alone.
    """

    kept: Tensor
    of: Tensor

    def __init__(self, confidence: float, right: bool, words: int, *, whole: bool) -> None:
        super().__init__()
        self.confidence, self.right = confidence, right
        self.top = TopK(1, 1.0, words)
        self.name = "outputs" if whole else self.top.name
        self.register_buffer("kept", torch.zeros((), dtype=torch.int64))
        self.register_buffer("of", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: dict[str, Tensor], teacher: Signals) -> dict[str, Tensor]:
        """The batch, with fewer tokens that are learnt."""
        learnt = batch[LEARNT].bool()
        word, confidence = self._likeliest(teacher[self.name])
        trusted = confidence >= self.confidence
        if self.right:
            trusted &= word == batch[INPUT_IDS].roll(-1, 1)
        # What is said at a token is of the one behind it.
        left = learnt & functional.pad(trusted[:, :-1], (1, 0))
        if self.training:
            self.kept += left.sum()
            self.of += learnt.sum()
        return {**batch, LEARNT: left.to(batch[LEARNT].dtype)}

    def _likeliest(self, said: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest word of each token, int64 (n, t), and its probability, float32 (n, t)."""
        rows = said.flatten(0, 1)
        if said.dtype == torch.uint8:
            ids, logs = self.top.unpack(rows)
            word, confidence = ids[:, 0], logs[:, 0].exp()
        else:
            found = [
                torch.softmax(some.float(), -1).max(-1)
                for some in torch.split(rows, max(1, NUMBERS // said.shape[-1]))
            ]
            word, confidence = (
                torch.cat([one.indices for one in found]),
                torch.cat([one.values for one in found]),
            )
        return word.view(said.shape[:2]), confidence.view(said.shape[:2])
