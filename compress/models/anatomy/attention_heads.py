"""Changing the number and size of attention heads. Pure functions of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """Attention weights per head, with biases as the last column.

    `query` and `key` are (heads, size, hidden + 1), `value` (heads, value size, hidden + 1), `out` (heads, hidden,
    value size).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor

    @property
    def count(self) -> int:
        """Number of heads."""
        return len(self.query)

    @property
    def size(self) -> int:
        """Dimensions of the queries and keys of one head."""
        return self.query.shape[1]

    def importance(self) -> Tensor:
        """Importance of each head: the Frobenius norm of its output projection times its value projection, (heads,)."""
        written: Tensor = torch.linalg.matrix_norm(self.out @ self.value)
        return written

    def select(self, count: int) -> Heads:
        """Keep the `count` most important heads, in their original order."""
        best = torch.topk(self.importance(), count).indices.sort().values
        return Heads(self.query[best], self.key[best], self.value[best], self.out[best])

    def shrink(self, size: int) -> Heads:
        """Reduce heads to at most `size` dimensions.

        Truncated SVD of what each head computes: the bilinear form of its attention scores, and the product of its
        output and value projections. The magnitude of the scores is preserved under the new 1 / sqrt(size).
        """
        query, key = _factors(self.query.transpose(1, 2), self.key, size)
        out, value = _factors(self.out, self.value, size)
        return Heads(query.transpose(1, 2), key, value, out).rescaled(self.size, size)

    def join(self, group_size: int) -> Heads:
        """Merge every `group_size` consecutive heads into one.

        Its scores are the mean of theirs, and its output is the sum of their outputs.
        """
        count, old_size = self.count // group_size, self.size

        def side_by_side(part: Tensor) -> Tensor:
            return part.reshape(count, group_size * part.shape[1], part.shape[2])

        hidden = self.out.shape[1]
        out = self.out.reshape(count, group_size, hidden, -1).transpose(1, 2).reshape(count, hidden, -1)
        joined = Heads(side_by_side(self.query), side_by_side(self.key), side_by_side(self.value), out)
        mean = group_size**-0.5
        return Heads(joined.query * mean, joined.key * mean, joined.value, out).rescaled(
            old_size, joined.size
        )

    def split(self, parts: int) -> Heads:
        """Split each head into `parts` heads with the same attention scores.

        They share the head's value dimensions, dealt out in turn from the largest singular value.
        """
        parts = min(parts, self.value.shape[1])
        out, value = _factors(self.out, self.value, self.value.shape[1])
        size = math.ceil(value.shape[1] / parts)
        padding = size * parts - value.shape[1]
        value = torch.nn.functional.pad(value, (0, 0, 0, padding))
        out = torch.nn.functional.pad(out, (0, padding))
        values = torch.stack([value[:, part::parts] for part in range(parts)], dim=1).flatten(0, 1)
        outs = torch.stack([out[:, :, part::parts] for part in range(parts)], dim=1).flatten(0, 1)
        return Heads(
            self.query.repeat_interleave(parts, dim=0), self.key.repeat_interleave(parts, dim=0), values, outs
        )

    def regroup(self, count: int, size: int) -> Heads:
        """Return `count` heads of `size` dimensions, or as close below that as the weights allow.

        To get fewer heads, the most important are selected; smaller heads come from `shrink`, larger ones from
        joining several, and more but smaller ones from splitting each. The scores are scaled for heads of `size`
        dimensions.
        """
        group_size = max(1, min(math.ceil(size / self.size), self.count // count))
        heads = self
        if group_size > 1:
            heads = self.select(count * group_size).join(group_size)
        elif count > self.count and size < self.size:
            heads = self.split(math.ceil(count / self.count))
        heads = heads.select(min(count, heads.count))
        return heads.shrink(size) if heads.size > size else heads.rescaled(heads.size, size)

    def rescaled(self, old: int, new: int) -> Heads:
        """Rescale queries and keys so that scores divided by sqrt(new) equal the former scores divided by sqrt(old)."""
        factor = (new / old) ** 0.25
        return Heads(self.query * factor, self.key * factor, self.value, self.out)


def _factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-`rank` factors of `left @ right` for each batch entry: (b, n, rank), (b, rank, m)."""
    # QR of both thin factors reduces the SVD to the small square matrix between their orthonormal bases.
    left_basis, left_core = torch.linalg.qr(left)
    right_basis, right_core = torch.linalg.qr(right.transpose(1, 2))
    u, s, v = torch.linalg.svd(left_core @ right_core.transpose(1, 2), full_matrices=False)
    root = s[:, :rank].sqrt()
    return left_basis @ u[:, :, :rank] * root[:, None, :], root[:, :, None] * (
        v[:, :rank] @ right_basis.transpose(1, 2)
    )
