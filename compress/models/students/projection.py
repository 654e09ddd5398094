"""Narrowing a transformer by linear algebra on its weights. Pure functions of tensors.

The residual stream has d dimensions in the teacher and k in the student, `x_student = B^T x_teacher` for a basis B
(d, k). A layer that reads the stream becomes `W B`, one that writes it `B^T W`. The layer norms in between subtract
the mean over the dimensions, which a rotation does not preserve. So B is orthogonal to the vector of ones on both
sides (Ashkboos et al., SliceGPT, 2024, arXiv:2401.15024, fold the mean into the weights instead): then the student's
norms subtract nothing, and what the teacher's norms subtract has no effect anyway.

In pre-norm models (vision transformers), the scales of the norms are folded into the layers that read them, and with
k = d the student computes what the teacher does. In post-norm models (BERT), where norms act on the stream itself, a
scale is no longer diagonal in the basis: the nearest diagonal replaces it, which is exact with k = d if a norm
scales all dimensions alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_RIDGE = 1e-3


def orthogonal_to_ones(size: int) -> Tensor:
    """Orthonormal basis of the complement of the vector of ones: (size, size - 1)."""
    square = torch.eye(size, dtype=torch.float64)
    square[:, 0] = 1.0
    orthonormal: Tensor = torch.linalg.qr(square).Q
    return orthonormal[:, 1:]


def narrowing_basis(moments: Tensor, width: int) -> Tensor:
    """B (d, width), float64: the principal directions of the residual stream, orthogonal to ones on both sides.

    Args:
        moments: second moments of the stream, (d, d), symmetric.
        width: k <= d.
    """
    complement = orthogonal_to_ones(len(moments))
    inner = complement.T @ moments.double() @ complement
    directions: Tensor = torch.linalg.eigh(inner).eigenvectors.flip(1)[:, : width - 1]
    return complement @ directions @ orthogonal_to_ones(width).T


def normalised(rows: Tensor) -> Tensor:
    """Normalise each row (n, d) to mean 0 and variance 1, as a layer norm without scale and shift; float64."""
    return torch.nn.functional.layer_norm(rows.double(), rows.shape[-1:])


@dataclass(frozen=True)
class Moments:
    """Moments of vectors: `mean` (d,) and `second_moments` (d, d), the mean of their outer products; float64."""

    mean: Tensor
    second_moments: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Return the moments of the rows (n, d)."""
        rows = rows.double()
        return cls(rows.mean(dim=0), rows.T @ rows / len(rows))

    @property
    def covariance(self) -> Tensor:
        """Second moments about the mean, (d, d)."""
        return self.second_moments - torch.outer(self.mean, self.mean)

    def scaled(self, weight: Tensor, bias: Tensor) -> Moments:
        """Return the moments of `weight * x + bias`; both (d,)."""
        weight, bias = weight.detach().double(), bias.detach().double()
        mean = weight * self.mean
        crossed = torch.outer(mean, bias)
        second_moments = (
            self.second_moments * torch.outer(weight, weight) + crossed + crossed.T + torch.outer(bias, bias)
        )
        return Moments(mean + bias, second_moments)


@dataclass(frozen=True)
class StreamReader:
    """How the student's layers read the narrow stream y: a teacher's input x (d,) becomes `gather` y + `constant`.

    `gather` is (d, k); `constant` (d,) is the part of the mean of x outside the basis.
    """

    gather: Tensor
    constant: Tensor

    @classmethod
    def of_stream(cls, basis: Tensor, mean: Tensor) -> StreamReader:
        """Return the reader of the residual stream itself, with this mean (d,)."""
        return cls(basis, mean - basis @ (basis.T @ mean))

    @classmethod
    def of_norm(cls, basis: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> StreamReader:
        """Return the reader of the output of a norm whose scale and shift (d,) the student's norm no longer applies.

        Args:
            mean: of the normalised stream, before scale and shift, (d,).
        """
        stream, scale = cls.of_stream(basis, mean), scale.detach().double()
        return cls(scale[:, None] * stream.gather, shift.detach().double() + scale * stream.constant)

    def read(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weight (out, k) and bias (out,) of the student's layer, float64; a missing bias counts as zeros."""
        weight = weight.detach().double()
        constant = weight @ self.constant
        return weight @ self.gather, constant if bias is None else constant + bias.detach().double()


def norm_gain(second_moments: Tensor, basis: Tensor) -> float:
    """Factor by which the output of a norm of the narrow stream must be scaled.

    A norm divides by the magnitude of its input, so this compensates for the part of a normalised stream with second
    moments `second_moments` (d, d) that the basis leaves out.
    """
    wide, narrow = basis.shape
    kept_share = (basis.T @ second_moments @ basis).trace() / second_moments.trace()
    return float(torch.sqrt(kept_share * wide / narrow))


def narrow_norm(scale: Tensor, shift: Tensor, moments: Moments, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (k,) of the student's norm in the stream, given the teacher's `scale` and `shift` (d,).

    The scale is the least-squares diagonal over the teacher's normalised input, times `norm_gain`; the shift
    preserves the mean.

    Args:
        moments: the moments of the normalised stream, before scale and shift.
    """
    scale, shift = scale.detach().double(), shift.detach().double()
    covariance = moments.covariance
    # The ridge gives directions without variance on the examples the mean scale instead of 0 / 0.
    covariance = covariance + _RIDGE * covariance.trace() / len(covariance) * torch.eye(
        len(covariance), dtype=torch.float64
    )
    inside = torch.einsum("di,de,ei->i", basis, covariance, basis).clamp(min=1e-12)
    slope = torch.einsum("di,d,de,ei->i", basis, scale, covariance, basis) / inside
    offset = basis.T @ (scale * moments.mean + shift) - slope * (basis.T @ moments.mean)
    return slope * norm_gain(moments.second_moments, basis), offset


def important_neurons(in_weights: Tensor, out_weights: Tensor, count: int) -> Tensor:
    """Indices of the `count` hidden neurons with the largest product of weight norms, ascending.

    Args:
        in_weights: input weights (neurons, in).
        out_weights: output weights (out, neurons).
    """
    importance = in_weights.norm(dim=1) * out_weights.norm(dim=0)
    return torch.topk(importance, count).indices.sort().values
