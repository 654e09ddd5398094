"""The best product of two matrices in place of one: pure functions of tensors and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-6
"""The least second moment of a direction, as a share of their mean: those that no example showed count a little."""
_LEAST = 1e-30


@dataclass(frozen=True)
class Decomposition:
    """A weight (out, in) as left @ right, its directions in falling order of what they add to the output.

    `left` is (out, n), `right` (n, in), float64; `squares` (n,) holds the sum of squares of the output that each
    direction carries.
    """

    left: Tensor
    right: Tensor
    squares: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """The first factor (rank, in) and the second (out, rank); both halves of a direction have the same norm, so
        that training changes both alike."""
        left, right = self.left[:, :rank], self.right[:rank]
        balance = (left.norm(dim=0) / right.norm(dim=1).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
        return right * balance[:, None], left / balance

    def lost(self, rank: int) -> float:
        """The share of the output, in squares, that the directions beyond `rank` carry."""
        total = float(self.squares.sum())
        return float(self.squares[rank:].sum()) / total if total else 0.0


def decompose(weight: Tensor, square: Tensor | None = None) -> Decomposition:
    """The directions whose first k are the best factors of rank k.

    Plain: the SVD of the weight, which minimises ||W - W'||. With second moments of what the map reads, the SVD of
    W C^(1/2), which minimises E ||(W - W') x||^2: DRONE (Chen et al. 2021), and the whitening of SVD-LLM (Wang et al.
    2024, arXiv:2403.07378), whose Cholesky factor the symmetric eigenvectors replace, as C may be singular.

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
        # Its left half U by what the map puts out, W C W^T: as the right one is U^T W, the root of a C that is much
        # larger, as that of what the last map of a layer reads, is not needed.
        values, left = torch.linalg.eigh(weight @ square @ weight.T + least * (weight @ weight.T))
        left = left.flip(1)
        return Decomposition(left, left.T @ weight, values.flip(0).clamp_min(0))
    sizes, directions = torch.linalg.eigh(square)
    # Sums of float32 leave anything around 0 where no example went, negative values too.
    sizes = sizes.clamp_min(least)
    root = directions * sizes.sqrt()
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    inverse = (directions / sizes.sqrt()).T
    return Decomposition(left * values, right @ inverse, values**2)


def pays(rank: int, rows: int, columns: int) -> bool:
    """Whether two factors multiply less than the whole (rows, columns) does, an input at a time."""
    return rank * (rows + columns) < rows * columns


def rank_for_ratio(rows: int, columns: int, ratio: float, round_to: int) -> int:
    """The rank that removes `ratio` of the multiplications: the nearest multiple of `round_to`, at least one."""
    exact = (1 - ratio) * rows * columns / (rows + columns)
    return max(round_to, round_to * math.floor(exact / round_to + 0.5))


def rank_for_energy(squares: Tensor, energy: float, round_to: int) -> int:
    """The least rank whose directions carry `energy` of the whole, rounded up to a multiple of `round_to`."""
    total = float(squares.sum())
    carried = torch.cumsum(squares, dim=0)
    rank = int((carried < energy * total * (1 - 1e-12)).sum()) + 1 if total else 1
    return round_to * math.ceil(rank / round_to)
