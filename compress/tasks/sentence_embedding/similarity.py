"""How embeddings order pairs of texts: cosine similarities, Spearman correlation, shared neighbours. Pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_PAIRS = 2_000_000
"""Maximum number of compared pairs: all pairs of up to 2,000 texts."""
MAX_QUERIES = 5_000
"""Maximum number of texts whose neighbours are searched; they are searched among all texts."""
NEIGHBOURS = 10
"""Number of neighbours per text that are compared."""

_SEED = 20_260_101
"""Seed of the order in which texts are paired: the same pairs for every model."""
_MAX_CELLS = 4_000_000
_MIN_LENGTH = 1e-12


def unit_vectors(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalize embeddings (n, d) to length 1, float32; a zero vector stays zero and is similar to nothing."""
    wide = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(lengths, _MIN_LENGTH), np.float32)


def pair_similarities(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine similarities (m,) of pairs of consecutive embeddings (2 m, d)."""
    unit = unit_vectors(embeddings)
    return np.asarray(np.einsum("nd,nd->n", unit[0::2], unit[1::2]), np.float32)


def compared_pairs(n: int, max_pairs: int = MAX_PAIRS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of n texts are compared: two index arrays (p,) with p = n (n - 1) / 2, or `max_pairs` if that is
    less.

    The texts form a circle in a fixed random order; each is paired with its next neighbour, then with the second next,
    and so on. Hence no pair occurs twice, and each text occurs equally often, give or take one.
    """
    order, count, _ = _circle(n, max_pairs)
    offset, first = np.divmod(np.arange(count, dtype=np.int64), max(n, 1))
    return order[first], order[(first + 1 + offset) % max(n, 1)]


def similarities(embeddings: NDArray[np.float32], max_pairs: int = MAX_PAIRS) -> NDArray[np.float32]:
    """Return the cosine similarities (p,) of embeddings (n, d) for `compared_pairs(n, max_pairs)`, in that order."""
    n = len(embeddings)
    order, count, num_offsets = _circle(n, max_pairs)
    circle = unit_vectors(embeddings)[order]
    unrolled = np.concatenate([circle, circle[: num_offsets + 1]])
    cosines = np.empty((num_offsets, n), np.float32)
    for offset in range(num_offsets):
        np.einsum("nd,nd->n", circle, unrolled[offset + 1 : offset + 1 + n], out=cosines[offset])
    return cosines.reshape(-1)[:count]


def _circle(n: int, max_pairs: int) -> tuple[NDArray[np.int64], int, int]:
    """Return the texts in a circle, the number of compared pairs, and the number of rounds that takes."""
    count = min(n * (n - 1) // 2, max_pairs)
    return np.random.default_rng(_SEED).permutation(n).astype(np.int64), count, -(-count // max(n, 1))


def rank_groups(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of distinct smaller values (n,) for each of the values (n,): equal values share a group."""
    return np.asarray(np.unique(values, return_inverse=True)[1].reshape(-1), np.int64)


def spearman(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation of two series (n,), with mean ranks for ties (Spearman 1904).

    0 if one of them is constant and so defines no order.

    Raises:
        ValueError: the series differ in length.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"series of shapes {first.shape} and {second.shape}")
    return weighted_spearman(rank_groups(first), rank_groups(second), np.ones(len(first)))


def weighted_spearman(
    first: NDArray[np.int64], second: NDArray[np.int64], weights: NDArray[np.float64]
) -> float:
    """Return Spearman's correlation of two series in which each item is repeated `weights` times.

    Args:
        first, second: `rank_groups` of the series (n,).
        weights: float64 (n,), 0 or more; counts in a bootstrap.
    """
    first_ranks, second_ranks = _mid_ranks(first, weights), _mid_ranks(second, weights)
    total = weights.sum()
    if total <= 0:
        return 0.0
    first_ranks -= weights @ first_ranks / total
    second_ranks -= weights @ second_ranks / total
    weighted = weights * first_ranks
    variances = (weighted @ first_ranks) * ((weights * second_ranks) @ second_ranks)
    # Ranks are multiples of one half: a smaller spread is rounding error.
    if variances <= 1e-9:
        return 0.0
    return float(np.clip((weighted @ second_ranks) / np.sqrt(variances), -1.0, 1.0))


def _mid_ranks(groups: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(groups, weights)
    return np.asarray((np.cumsum(counts) - counts / 2)[groups], np.float64)


def recall_shares(embeddings: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each text the fraction of its neighbours by `reference` that are neighbours by `embeddings`.

    Nearest by cosine similarity, excluding the text itself; with fewer than 11 texts, all others are neighbours. With
    more than 5,000 texts, a fixed random 5,000 are queried.

    Args:
        embeddings, reference: (n, d) and (n, e), n > 1; the widths may differ.

    Returns:
        float64 (min(n, 5000),).

    Raises:
        ValueError: the numbers of rows differ, or there is only one.
    """
    n = len(embeddings)
    if len(reference) != n or n < 2:
        raise ValueError(f"{n} embeddings against {len(reference)}")
    k = min(NEIGHBOURS, n - 1)
    queries = np.sort(np.random.default_rng(_SEED).permutation(n)[:MAX_QUERIES])
    unit_embeddings, unit_reference = unit_vectors(embeddings), unit_vectors(reference)
    shares = np.empty(len(queries))
    block_size = max(1, _MAX_CELLS // n)
    for start in range(0, len(queries), block_size):
        block = queries[start : start + block_size]
        neighbours, expected = (_nearest(vectors, block, k) for vectors in (unit_embeddings, unit_reference))
        shares[start : start + len(block)] = [
            len(np.intersect1d(a, b, assume_unique=True)) / k
            for a, b in zip(neighbours, expected, strict=True)
        ]
    return shares


def _nearest(unit: NDArray[np.float32], queries: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the k nearest other texts of each query: indices (len(queries), k), unordered."""
    cosines = unit[queries] @ unit.T
    cosines[np.arange(len(queries)), queries] = -np.inf
    return np.asarray(np.argpartition(-cosines, k - 1, axis=1)[:, :k], np.int64)
