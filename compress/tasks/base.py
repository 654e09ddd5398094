"""The seam between one kind of problem and everything else: how to batch, score and describe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.data.splits import Examples

Batch = dict[str, NDArray[Any]]


class Inputs(Protocol):
    """Encoded examples of one split, ragged, ready to be batched for a model.

    `lengths`: int64 (n,), the cost of each example (tokens), for length bucketing. `input_names` are both the
    keyword arguments of the torch model and the input names of its ONNX file.
    """

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""
        ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model, in its order."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The examples at `indices`, padded to the longest of them: int64 (len(indices), length) each."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """What passes may see: training and validation examples and label names. Never the test split."""

    train: Examples
    validation: Examples
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """The primary metric's value on a split, a fraction."""

    name: str
    value: float


class Task(Protocol):
    """One kind of problem."""

    @property
    def name(self) -> str:
        """What the profile calls the task."""
        ...

    @property
    def metric(self) -> str:
        """What `score` measures."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens that an example is cut to."""
        ...

    def encode(self, examples: Examples, model: Path) -> Inputs:
        """Encode examples with the tokenizer of the artifact directory `model`; needs no torch."""
        ...

    def score(self, outputs: NDArray[np.float32], truth: NDArray[np.int64]) -> Score:
        """The primary metric of outputs (n, labels) against truth (n,)."""
        ...

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Outputs (n, labels) -> predicted label indices (n,)."""
        ...
