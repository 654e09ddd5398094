"""Examples and their three splits: what every other part of the package knows of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -1
"""The label index of an example whose label is not known."""


@dataclass(frozen=True)
class Examples:
    """Texts with their label indices.

    `labels`: int64 (n,), an index into the label names of the data, -1 where there is no label.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.texts),):
            raise ValueError(f"{len(self.texts)} texts, but labels of shape {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Splits:
    """The data of a job.

    `labels` names the label indices. `notes` says what loading did to the data that its owner may not expect
    (duplicates dropped, a fallback encoding used), one sentence each, for the report.
    """

    train: Examples
    validation: Examples
    test: Examples
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
