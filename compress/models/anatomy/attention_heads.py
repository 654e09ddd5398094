"""Attention heads of another number and size. Pure functions of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """Attention weights by head, biases as the last column.

    `query` and `key` are (heads, size, hidden + 1), `value` (heads, value size, hidden + 1), `out` (heads, hidden,
    value size).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor

    @property
    def count(self) -> int:
        """How many heads there are."""
        return len(self.query)

    @property
    def size(self) -> int:
        """Dimensions of the queries and keys of a head."""
        return self.query.shape[1]

    def importance(self) -> Tensor:
        """How much each head writes: the norm of its value and output maps together, (heads,)."""
        written: Tensor = torch.linalg.matrix_norm(self.out @ self.value)
        return written

    def select(self, count: int) -> Heads:
        """The `count` most important heads, in their order."""
        best = torch.topk(self.importance(), count).indices.sort().values
        return Heads(self.query[best], self.key[best], self.value[best], self.out[best])

    def shrink(self, size: int) -> Heads:
        """Heads of at most `size` dimensions, by truncated SVD of what each computes: the bilinear form of its scores
        and the product of its value and output maps. The scores keep their size under the new 1 / sqrt(size)."""
        query, key = _factors(self.query.transpose(1, 2), self.key, size)
        out, value = _factors(self.out, self.value, size)
        return Heads(query.transpose(1, 2), key, value, out).rescaled(self.size, size)

    def join(self, together: int) -> Heads:
        """Every `together` heads as one: its scores are the mean of theirs, and it writes what all of them write."""
        count, old = self.count // together, self.size

        def side_by_side(part: Tensor) -> Tensor:
            return part.reshape(count, together * part.shape[1], part.shape[2])

        hidden = self.out.shape[1]
        out = self.out.reshape(count, together, hidden, -1).transpose(1, 2).reshape(count, hidden, -1)
        joined = Heads(side_by_side(self.query), side_by_side(self.key), side_by_side(self.value), out)
        mean = together**-0.5
        return Heads(joined.query * mean, joined.key * mean, joined.value, out).rescaled(old, joined.size)

    def split(self, parts: int) -> Heads:
        """Each head as several that attend alike and share its value dimensions, the largest ones dealt out first."""
        parts = min(parts, self.value.shape[1])
        out, value = _factors(self.out, self.value, self.value.shape[1])
        size = math.ceil(value.shape[1] / parts)
        room = size * parts - value.shape[1]
        value = torch.nn.functional.pad(value, (0, 0, 0, room))
        out = torch.nn.functional.pad(out, (0, room))
        values = torch.stack([value[:, part::parts] for part in range(parts)], dim=1).flatten(0, 1)
        outs = torch.stack([out[:, :, part::parts] for part in range(parts)], dim=1).flatten(0, 1)
        return Heads(
            self.query.repeat_interleave(parts, dim=0), self.key.repeat_interleave(parts, dim=0), values, outs
        )

    def regroup(self, count: int, size: int) -> Heads:
        """`count` heads of `size` dimensions, or as near below as the weights go.

        Fewer heads: the most important ones. Smaller ones: `shrink`. Larger ones: several are joined. More and smaller
        ones: each is split. The scores are those of heads of `size` dimensions.
        """
        together = max(1, min(math.ceil(size / self.size), self.count // count))
        heads = self
        if together > 1:
            heads = self.select(count * together).join(together)
        elif count > self.count and size < self.size:
            heads = self.split(math.ceil(count / self.count))
        heads = heads.select(min(count, heads.count))
        return heads.shrink(size) if heads.size > size else heads.rescaled(heads.size, size)

    def rescaled(self, old: int, new: int) -> Heads:
        """The same scores when they are divided by sqrt(new) instead of sqrt(old)."""
        factor = (new / old) ** 0.25
        return Heads(self.query * factor, self.key * factor, self.value, self.out)


def _factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-`rank` factors of `left @ right`, each batch alone: (b, n, rank), (b, rank, m)."""
    # The product of two thin factors has its singular values in a small square between two orthonormal frames.
    one, inner = torch.linalg.qr(left)
    two, other = torch.linalg.qr(right.transpose(1, 2))
    u, s, v = torch.linalg.svd(inner @ other.transpose(1, 2), full_matrices=False)
    root = s[:, :rank].sqrt()
    return one @ u[:, :, :rank] * root[:, None, :], root[:, :, None] * (v[:, :rank] @ two.transpose(1, 2))
