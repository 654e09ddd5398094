"""Losses as sums of means, so that a batch can be computed in parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.encoding.inputs import LOSS_MASK

MeanLoss = Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]
"""A loss that is one mean over examples or over target tokens: a scalar from the outputs (n, ...), the batch
they were computed from, and the indices int64 (n,) of its examples, on the CPU."""


class SumOfMeans(ABC):
    """A loss that is a sum of k means: over examples, labelled examples, tokens, pairs of tokens.

    The mean over a batch is the sum of the means of its parts, each weighted by the part's share of the items.
    """

    @abstractmethod
    def counts(self, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Return the number of items in each mean of a part, float64 (k,) on the CPU, before the model has run."""

    @abstractmethod
    def __call__(
        self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a part, a scalar, each mean multiplied by its factor, (k,); None: 1 each."""


@dataclass(frozen=True)
class SingleMean(SumOfMeans):
    """Adapts a single-mean function to `SumOfMeans`."""

    function: MeanLoss

    def counts(self, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Return the number of target tokens if the batch has them, else of examples."""
        count = batch[LOSS_MASK][:, 1:].sum().cpu() if LOSS_MASK in batch else torch.tensor(len(indices))
        return count.double().reshape(1)

    def __call__(
        self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Return the function's value times its factor."""
        mean = self.function(outputs, batch, indices)
        return mean if factors is None else factors[0] * mean
