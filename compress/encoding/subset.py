"""Subset of already encoded examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.encoding.inputs import Batch, Inputs


@dataclass(frozen=True)
class InputSubset:
    """The examples of `whole` at `chosen` (int64 (m,)), in that order, without copying."""

    whole: Inputs
    chosen: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""
        return self.whole.lengths[self.chosen]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in its order."""
        return self.whole.input_names

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the examples at `indices` of the subset."""
        return self.whole.batch(self.chosen[np.asarray(indices, np.int64)])

    def digest(self) -> str:
        """Return the sha256 of the encoded examples."""
        return hashlib.sha256(self.whole.digest().encode() + self.chosen.tobytes()).hexdigest()
