"""A model of characters in torch: each is guessed from the few before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from next_character.alphabet import size_of
from next_character.keys import CharacterData

WINDOW = 4


class Network(nn.Module):
    """Embeddings of the last characters, side by side, through two linear maps."""

    def __init__(self, size: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, width)
        self.first = nn.Linear(WINDOW * width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, size)

    def forward(self, letters: Tensor, present: Tensor) -> Tensor:
        """int64 (n, characters), twice -> logits (n, characters, size) of what follows each."""
        seen = self.embed(letters) * present[..., None]
        padded = functional.pad(seen, (0, 0, WINDOW - 1, 0))
        beside = torch.cat([padded[:, start : start + letters.shape[1]] for start in range(WINDOW)], dim=-1)
        inner = functional.gelu(self.first(beside))
        return self.last(inner + functional.gelu(self.second(inner)))


def large() -> Network:
    """A teacher."""
    return _made(16, 64)


def small() -> Network:
    """A student."""
    return _made(8, 32)


def _made(width: int, hidden: int) -> Network:
    return Network(size_of(CharacterData.model_fields["alphabet"].default), width, hidden)
