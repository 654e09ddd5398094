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
    """The examples of `base` at `indices` (int64 (m,)), in that order, without copying."""

    base: Inputs
    indices: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""
        return self.base.lengths[self.indices]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in its order."""
        return self.base.input_names

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the examples at `indices` of the subset."""
        return self.base.batch(self.indices[np.asarray(indices, np.int64)])

    def digest(self) -> str:
        """Return the sha256 of the encoded examples."""
        return hashlib.sha256(self.base.digest().encode() + self.indices.tobytes()).hexdigest()
