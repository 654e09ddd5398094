"""What a step minimises: means, each over things of its own, of a batch that may be computed in parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.encoding.inputs import LEARNT

MeanOfLearnt = Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]
"""A loss that is one mean, over examples or over the tokens that are learnt: a scalar from the outputs (n, ...), the
batch they came from, and the indices int64 (n,) of its examples, on the CPU."""


class Means(ABC):
    """A loss that is a sum of k means: over examples, labelled examples, tokens, pairs of tokens.

    A mean over a batch is that of its parts, each times the share that the part has in what the mean is over.
    """

    @abstractmethod
    def counts(self, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """How many things of a part each mean is over, float64 (k,) on the CPU; the model has not run on it."""

    @abstractmethod
    def __call__(
        self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """The loss of a part, a scalar, each mean times its factor, (k,); None: 1 each."""


@dataclass(frozen=True)
class OneMean(Means):
    """A function as such a loss."""

    function: MeanOfLearnt

    def counts(self, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Of texts that are gone on with the tokens that are to be foretold, of anything else the examples."""
        counted = batch[LEARNT][:, 1:].sum().cpu() if LEARNT in batch else torch.tensor(len(indices))
        return counted.double().reshape(1)

    def __call__(
        self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """The function times its factor."""
        value = self.function(outputs, batch, indices)
        return value if factors is None else factors[0] * value
