"""From a wide transformer to a narrow one by linear algebra on its weights. Pure functions of tensors.

The stream between the layers has d dimensions in the teacher and k in the student, `x_student = B^T x_teacher`
for a basis B (d, k). A map that reads the stream becomes `W B`, one that writes it `B^T W`. The layer norms stand
between: they subtract the mean over the dimensions, which no rotation keeps. So B is orthogonal to the vector of
ones on both sides (as Ashkboos et al., SliceGPT, 2024, arXiv:2401.15024, fold it into the weights instead): then
the student's norms subtract nothing, what the teacher's norms subtract is lost anyway, and with k = d a teacher
whose norms scale all dimensions alike is kept exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def orthogonal_to_ones(size: int) -> Tensor:
    """Orthonormal columns that span what is orthogonal to the vector of ones: (size, size - 1)."""
    square = torch.eye(size, dtype=torch.float64)
    square[:, 0] = 1.0
    orthonormal: Tensor = torch.linalg.qr(square).Q
    return orthonormal[:, 1:]


def narrowing_basis(moments: Tensor, width: int) -> Tensor:
    """B (d, width), float64: the principal directions of the stream, orthogonal to ones on both sides.

    Args:
        moments: second moments of the stream, (d, d), symmetric.
        width: k <= d.
    """
    wide = orthogonal_to_ones(len(moments))
    inner = wide.T @ moments.double() @ wide
    directions: Tensor = torch.linalg.eigh(inner).eigenvectors.flip(1)[:, : width - 1]
    return wide @ directions @ orthogonal_to_ones(width).T


def second_moments(rows: Tensor) -> Tensor:
    """The second moments of rows (n, d) about 0, scaled to trace 1: (d, d), float64."""
    rows = rows.double()
    moments = rows.T @ rows
    return moments / moments.trace()


def normalised(rows: Tensor) -> Tensor:
    """Rows (n, d) with mean 0 and variance 1 each: a layer norm without scale and shift."""
    return torch.nn.functional.layer_norm(rows.double(), rows.shape[-1:])


def read_through(weight: Tensor, bias: Tensor, basis: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (out, k) and bias of a map that reads the narrow stream.

    What the basis leaves out of `shift`, the stream's constant part (d,), goes into the bias.
    """
    lost = shift.double() - basis @ (basis.T @ shift.double())
    return weight.double() @ basis, bias.double() + weight.double() @ lost


def norm_scale(scale: Tensor, moments: Tensor, basis: Tensor) -> Tensor:
    """The scale (k,) of the student's layer norm for a teacher's norm of scale (d,).

    The norm of the narrow stream divides by its own length, so the scale takes back what the basis leaves out of
    it; the teacher's scale, no longer diagonal in the basis, is replaced by its least-squares diagonal.
    """
    moments = moments.double()
    wide, narrow = basis.shape
    inside = torch.einsum("di,de,ei->i", basis, moments, basis).clamp(min=1e-12)
    scaled = torch.einsum("di,d,de,ei->i", basis, scale.double(), moments, basis)
    kept = inside.sum() / moments.trace()
    return scaled / inside * torch.sqrt(kept * wide / narrow)


@dataclass(frozen=True)
class Heads:
    """Attention weights by head, biases as the last column: (heads, size, hidden + 1); `out` (heads, hidden, size)."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor

    def importance(self) -> Tensor:
        """How much each head writes: the norm of its value and output maps together, (heads,)."""
        written: Tensor = torch.linalg.matrix_norm(self.out @ self.value)
        return written

    def select(self, count: int) -> Heads:
        """The `count` most important heads, in their order."""
        best = torch.topk(self.importance(), count).indices.sort().values
        return Heads(self.query[best], self.key[best], self.value[best], self.out[best])

    def shrink(self, size: int) -> Heads:
        """Heads of fewer dimensions, by truncated SVD of what each computes: the bilinear form of its scores and
        the product of its value and output maps. The scores keep their size under the new 1 / sqrt(size)."""
        old = self.query.shape[1]
        query, key = _factors(self.query.transpose(1, 2), self.key, size)
        out, value = _factors(self.out, self.value, size)
        kept = (size / old) ** 0.25
        return Heads(query.transpose(1, 2) * kept, key * kept, value, out)


def _factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-`rank` factors of `left @ right`, each batch alone: (b, n, rank), (b, rank, m)."""
    u, s, v = torch.linalg.svd(left @ right, full_matrices=False)
    root = s[:, :rank].sqrt()
    return u[:, :, :rank] * root[:, None, :], root[:, :, None] * v[:, :rank]


def important_neurons(reads: Tensor, writes: Tensor, count: int) -> Tensor:
    """The `count` hidden neurons with the largest product of norms, in their order.

    Args:
        reads: (neurons, in), writes: (out, neurons).
    """
    importance = reads.norm(dim=1) * writes.norm(dim=0)
    return torch.topk(importance, count).indices.sort().values
