"""The seam between one kind of problem and everything else: how to batch, score and describe it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compress.data.splits import Examples
from compress.encoding.inputs import Inputs
from compress.profile.schema import DataSpec


@dataclass(frozen=True)
class TrainingData:
    """What passes may see: training and validation examples, label names, unlabelled examples. Never the test split."""

    train: Examples
    validation: Examples
    labels: tuple[str, ...]
    unlabeled: Examples | None = None

    @property
    def shown(self) -> tuple[Examples, ...]:
        """What a model is trained on: the training examples, and those without labels where there are any."""
        return (self.train,) if self.unlabeled is None else (self.train, self.unlabeled)


@dataclass(frozen=True)
class Truth:
    """What outputs are scored against.

    `labels`: int64 (n,). `scores`: float32 (n // 2,), given similarities of pairs. `reference`: float32 (n, d), the
    teacher's outputs on the same examples, where the task compares with those.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    reference: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, examples: Examples, reference: NDArray[np.float32] | None = None) -> Truth:
        """The truth of examples."""
        return cls(examples.labels, examples.scores, reference)

    def take(self, indices: NDArray[np.int64]) -> Truth:
        """The truth of some of the examples, for truths without pairs.

        Raises:
            ValueError: the examples are pairs.
        """
        if self.scores is not None:
            raise ValueError("pairs cannot be taken apart")
        return Truth(self.labels[indices], None, None if self.reference is None else self.reference[indices])


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
    def data(self) -> DataSpec:
        """What the profile says of the data."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether outputs are logits of labels; else they are embeddings."""
        ...

    def encode(self, examples: Examples, model: Path) -> Inputs:
        """Encode examples as the artifact directory `model` declares it (tokenizer, image size); needs no torch."""
        ...

    def needs_reference(self, examples: Examples) -> bool:
        """Whether `score` of these examples compares with the teacher's outputs."""
        ...

    def score(self, outputs: NDArray[np.float32], truth: Truth) -> Score:
        """The primary metric of outputs (n, labels or width); larger is better."""
        ...

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Outputs (n, labels) -> predicted label indices (n,); empty where the task has no labels."""
        ...
