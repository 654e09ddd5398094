"""Low-rank factorization of matrices: pure functions of tensors and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-6
"""Minimum second moment of a direction, as a fraction of the mean: directions never seen in examples count a little."""
_LEAST = 1e-30


@dataclass(frozen=True)
class Decomposition:
    """A weight (out, in) as left @ right, with directions ordered by decreasing contribution to the output.

    `left` is (out, n), `right` (n, in), float64; `squares` (n,) holds the sum of squares of the output along each
    direction.
    """

    left: Tensor
    right: Tensor
    squares: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the first factor (rank, in) and the second (out, rank).

        Both halves of a direction have the same norm, so that training changes both alike.
        """
        left, right = self.left[:, :rank], self.right[:rank]
        balance = (left.norm(dim=0) / right.norm(dim=1).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
        return right * balance[:, None], left / balance

    def lost(self, rank: int) -> float:
        """Return the fraction of the output, in squares, along the directions beyond `rank`."""
        total = float(self.squares.sum())
        return float(self.squares[rank:].sum()) / total if total else 0.0


def decompose(weight: Tensor, square: Tensor | None = None) -> Decomposition:
    """Return a decomposition whose first k directions are the best factors of rank k.

    Without second moments, the SVD of the weight, which minimizes ||W - W'||. With second moments of the map's input,
    the SVD of W C^(1/2), which minimizes E ||(W - W') x||^2: DRONE (Chen et al. 2021), and the whitening of SVD-LLM
    (Wang et al. 2024, arXiv:2403.07378) with symmetric eigenvectors instead of its Cholesky factor, as C may be
    singular.

    Args:
        weight: (out, in).
        square: C = E[x x^T], (in, in); None: all directions count alike.
    """
    weight = weight.detach().double()
    if square is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return Decomposition(left * values, right, values**2)
    square = square.double()
    least = max(DAMPING * float(square.diagonal().mean()), _LEAST)
    if len(weight) <= len(square):
        # Compute the left half U from the map's output moments W C W^T: the right half is U^T W, so the root of the
        # much larger C, such as that of the input of a layer's last map, is not needed.
        values, left = torch.linalg.eigh(weight @ square @ weight.T + least * (weight @ weight.T))
        left = left.flip(1)
        return Decomposition(left, left.T @ weight, values.flip(0).clamp_min(0))
    sizes, directions = torch.linalg.eigh(square)
    # float32 sums leave noise around 0 in directions without examples, including negative values.
    sizes = sizes.clamp_min(least)
    root = directions * sizes.sqrt()
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    inverse = (directions / sizes.sqrt()).T
    return Decomposition(left * values, right @ inverse, values**2)


def saves_multiplications(rank: int, rows: int, columns: int) -> bool:
    """Whether two factors need fewer multiplications per input than the full matrix (rows, columns)."""
    return rank * (rows + columns) < rows * columns


def rank_for_ratio(rows: int, columns: int, ratio: float, round_to: int) -> int:
    """Return the rank that removes `ratio` of the multiplications: the nearest multiple of `round_to`, at least one."""
    exact = (1 - ratio) * rows * columns / (rows + columns)
    return max(round_to, round_to * math.floor(exact / round_to + 0.5))


def rank_for_energy(squares: Tensor, energy: float, round_to: int) -> int:
    """Return the smallest rank whose directions carry `energy` of the total, rounded up to a multiple of `round_to`."""
    total = float(squares.sum())
    carried = torch.cumsum(squares, dim=0)
    rank = int((carried < energy * total * (1 - 1e-12)).sum()) + 1 if total else 1
    return round_to * math.ceil(rank / round_to)
