"""Low-rank factorization of matrices: pure functions of tensors and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-6
"""Minimum second moment of a direction, as a fraction of the mean: directions never seen in examples count a little."""
_MIN_MOMENT = 1e-30


@dataclass(frozen=True)
class Decomposition:
    """A weight (out, in) as left @ right, with directions ordered by decreasing contribution to the output.

    `left` is (out, n), `right` (n, in), float64; `energies` (n,) holds the sum of squares of the output along each
    direction.
    """

    left: Tensor
    right: Tensor
    energies: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the first factor (rank, in) and the second (out, rank).

        Both halves of a direction have the same norm, so that training changes both alike.
        """
        left, right = self.left[:, :rank], self.right[:rank]
        balance = (left.norm(dim=0) / right.norm(dim=1).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
        return right * balance[:, None], left / balance

    def lost_energy(self, rank: int) -> float:
        """Return the fraction of the output, in squares, along the directions beyond `rank`."""
        total = float(self.energies.sum())
        return float(self.energies[rank:].sum()) / total if total else 0.0


def decompose(weight: Tensor, second_moment: Tensor | None = None) -> Decomposition:
    """Return a decomposition whose first k directions are the best factors of rank k.

    Without second moments, the SVD of the weight, which minimizes ||W - W'||. With second moments of the map's input,
    the SVD of W C^(1/2), which minimizes E ||(W - W') x||^2: DRONE (Chen et al. 2021), and the whitening of SVD-LLM
    (Wang et al. 2024, arXiv:2403.07378) with symmetric eigenvectors instead of its Cholesky factor, as C may be
    singular.

    Args:
        weight: (out, in).
        second_moment: C = E[x x^T], (in, in); None: all directions count alike.
    """
    weight = weight.detach().double()
    if second_moment is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return Decomposition(left * values, right, values**2)
    second_moment = second_moment.double()
    floor = max(DAMPING * float(second_moment.diagonal().mean()), _MIN_MOMENT)
    if len(weight) <= len(second_moment):
        # Compute the left half U from the map's output moments W C W^T: the right half is U^T W, so the root of the
        # much larger C, such as that of the input of a layer's last map, is not needed.
        values, left = torch.linalg.eigh(weight @ second_moment @ weight.T + floor * (weight @ weight.T))
        left = left.flip(1)
        return Decomposition(left, left.T @ weight, values.flip(0).clamp_min(0))
    eigenvalues, directions = torch.linalg.eigh(second_moment)
    # float32 sums leave noise around 0 in directions without examples, including negative values.
    eigenvalues = eigenvalues.clamp_min(floor)
    root = directions * eigenvalues.sqrt()
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    inverse = (directions / eigenvalues.sqrt()).T
    return Decomposition(left * values, right @ inverse, values**2)


def saves_multiplications(rank: int, rows: int, columns: int) -> bool:
    """Whether two factors need fewer multiplications per input than the full matrix (rows, columns)."""
    return rank * (rows + columns) < rows * columns


def rank_for_ratio(rows: int, columns: int, ratio: float, round_to: int) -> int:
    """Return the rank that removes `ratio` of the multiplications: the nearest multiple of `round_to`, at least one."""
    exact = (1 - ratio) * rows * columns / (rows + columns)
    return max(round_to, round_to * math.floor(exact / round_to + 0.5))


def rank_for_energy(energies: Tensor, energy: float, round_to: int) -> int:
    """Return the smallest rank whose directions carry `energy` of the total, rounded up to a multiple of `round_to`."""
    total = float(energies.sum())
    carried = torch.cumsum(energies, dim=0)
    rank = int((carried < energy * total * (1 - 1e-12)).sum()) + 1 if total else 1
    return round_to * math.ceil(rank / round_to)
