"""Batching: shuffled, bucketed by length, deterministic for a given seed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.encoding.inputs import Batch

SORT_WINDOW = 64
"""Number of batches whose examples are sorted by length together: larger pads less, smaller shuffles more."""


def shuffled_batches(
    lengths: NDArray[np.int64], size: int, *, seed: int, epoch: int, window: int = SORT_WINDOW
) -> list[NDArray[np.int64]]:
    """Return the batches of one epoch: every example once, bucketed by length, in random order.

    The examples are shuffled, cut into groups of `window` batches, sorted by length inside a group and cut
    into batches, which are shuffled. Equal (seed, epoch) give equal batches.

    Args:
        lengths: (n,) length of each example.
        size: batch size; at most one batch of the epoch is smaller.

    Returns:
        ceil(n / size) index arrays.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), size * window):
        group = order[start : start + size * window]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches.extend(group[first : first + size] for first in range(0, len(group), size))
    return [batches[index] for index in random.permutation(len(batches))]


def batches_by_length(
    lengths: NDArray[np.int64], size: int, max_tokens: int | None = None
) -> list[NDArray[np.int64]]:
    """Return batches of at most `size` over all examples, longest first: minimal padding, for prediction.

    Args:
        max_tokens: maximum number of tokens in a batch, padding included (a single longer example is still a
            batch); None: unlimited.
    """
    order, batches, start = np.argsort(-lengths, kind="stable"), list[NDArray[np.int64]](), 0
    while start < len(order):
        limit = size if max_tokens is None else max_tokens // max(1, int(lengths[order[start]]))
        batches.append(order[start : start + max(1, min(size, limit))])
        start += len(batches[-1])
    return batches


def to_tensors(batch: Batch, device: str) -> dict[str, Tensor]:
    """Convert a batch of arrays to tensors on `device`."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}
