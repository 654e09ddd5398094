"""What is timed: a short text and a long one, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.measuring.timing.feeds import Scenario

SHORT, LONG = 8, 32


def workloads(
    indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Scenario]:
    """Both lengths at each batch size, the long text first."""
    return [
        Scenario(size, length, np.resize(indices, (max(1, len(indices) // size), size)))
        for length in dict.fromkeys((LONG, SHORT, *lengths))
        for size in batch_sizes
    ]
