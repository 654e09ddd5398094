"""Saliency of single weights: anything removable is scored by the sum over its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from compress.encoding.inputs import LOSS_MASK, Inputs, model_inputs
from compress.models.anatomy.observing import observe, token_rows
from compress.models.io.outputs import outputs_of
from compress.passes.prune.spec import PruneSpec
from compress.training.batches import shuffled_batches, to_tensors
from compress.training.loss_functions.labels import label_cross_entropy

BATCH_SIZE = 32
"""Number of examples in a batch that importance reads."""

Saliency = dict[nn.Parameter, Tensor]
LOSS_UNITS = frozenset({"taylor", "hessian"})
"""Kinds of importance whose scores are changes of the loss, hence directly comparable between layers."""


@dataclass(frozen=True)
class ImportanceData:
    """Data on which importance is measured.

    `inputs`: the training examples, encoded for the model; `labels`: int64 (n,), or None if the outputs are embeddings.
    """

    inputs: Inputs
    labels: Tensor | None
    spec: PruneSpec
    seed: int
    device: str
    batch_size: int = BATCH_SIZE

    def batches(self) -> list[NDArray[np.int64]]:
        """Return the batches that importance reads, as indices of examples."""
        every = shuffled_batches(self.inputs.lengths, self.batch_size, seed=self.seed, epoch=0)
        return every[: self.spec.importance_batches]

    def to_batch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return examples as inputs of the model."""
        return to_tensors(self.inputs.batch(indices), self.device)

    def example_batch(self) -> dict[str, Tensor]:
        """Return two examples to trace a model on."""
        return self.to_batch(self.batches()[0][:2])


def weight_saliency(model: nn.Module, data: ImportanceData) -> Saliency:
    """Return a saliency >= 0 for each weight of a model, by the kind of importance.

    `magnitude`: w^2. `taylor`: |w dL/dw|, summed over batches (Molchanov et al. 2019, arXiv:1906.10771). `hessian`: w^2
    F / 2, Optimal Brain Damage (LeCun et al. 1990) with the diagonal of the empirical Fisher matrix as the Hessian:
    squared gradients of single examples (Theis et al. 2018, arXiv:1801.05787). `activation`: |w| times the root mean
    square of its input (Wanda, Sun et al. 2023, arXiv:2306.11695). `random`: drawn with the seed.

    If the outputs are embeddings, the "loss" is their projection on a random direction of each example.
    """
    parameters, importance = list(model.parameters()), data.spec.importance
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        if importance == "magnitude":
            return {parameter: parameter.detach() ** 2 for parameter in parameters}
        if importance == "random":
            return {parameter: torch.rand(parameter.shape).to(parameter.device) for parameter in parameters}
        batches = data.batches()
        if importance == "activation":
            return _activation(model, data)
        totals = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        if importance == "taylor":
            for _ in gradients(model, data, batches):
                for parameter in parameters:
                    if parameter.grad is not None:
                        totals[parameter] += (parameter.detach() * parameter.grad).abs()
            return totals
        singles = [batch[place : place + 1] for batch in batches for place in range(len(batch))]
        for _ in gradients(model, data, singles):
            for parameter in parameters:
                if parameter.grad is not None:
                    totals[parameter] += parameter.grad**2
    return {
        parameter: parameter.detach() ** 2 * total / (2 * len(singles)) for parameter, total in totals.items()
    }


@contextmanager
def saliency_as_weights(saliency: Saliency) -> Iterator[None]:
    """Context manager that replaces weights by their saliency, which an importance of weights then sums."""
    weights = {parameter: parameter.data for parameter in saliency}
    try:
        for parameter, values in saliency.items():
            parameter.data = values
        yield
    finally:
        for parameter, values in weights.items():
            parameter.data = values


def sum_over_group() -> Any:
    """Return torch-pruning's importance that sums, for each channel of a group, the weights removed with it."""
    return tp.importance.GroupMagnitudeImportance(p=1, group_reduction="sum", normalizer=None)


def total_saliency(module: nn.Module, saliency: Saliency) -> float:
    """Return the total saliency of a module's weights."""
    return float(sum(saliency[each].double().sum() for each in module.parameters()))


def loss_on(model: nn.Module, data: ImportanceData, indices: NDArray[np.int64]) -> Tensor:
    """Return the differentiable loss of importance on the examples at `indices`.

    That is the cross-entropy of the labels or of the tokens to be predicted, or for embeddings the projection of the
    outputs on random directions.
    """
    batch = data.to_batch(indices)
    outputs = outputs_of(model(**model_inputs(batch)))
    if (learnt := batch.get(LOSS_MASK)) is not None:
        chosen = learnt[:, 1:].bool()
        return functional.cross_entropy(outputs[:, :-1][chosen], batch["input_ids"][:, 1:][chosen])
    if data.labels is None:
        return (outputs * torch.randn(outputs.shape).to(outputs.device)).sum()
    return label_cross_entropy(outputs, data.labels[torch.from_numpy(indices)].to(data.device))


def gradients(model: nn.Module, data: ImportanceData, batches: Sequence[NDArray[np.int64]]) -> Iterator[None]:
    """Compute the gradients of each batch in turn; they are in the parameters while the caller holds the yield."""
    for indices in batches:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_on(model, data, indices))
        yield
    model.zero_grad(set_to_none=True)


def _activation(model: nn.Module, data: ImportanceData) -> Saliency:
    """Return |w| times the root mean square of its input without padding; |w| alone for parameters of other modules."""
    saliency = {each: each.detach().abs() for each in model.parameters()}
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: Tensor, _: Tensor, mask: Tensor | None) -> None:
        # Linear maps have channels last, convolutions after the batch.
        last = isinstance(module, nn.Linear | Conv1D)
        rows = token_rows(inputs if last else inputs.movedim(1, -1), mask)
        sums[module] = sums.get(module, torch.zeros(())) + (rows**2).sum(dim=0)
        counts[module] = counts.get(module, 0) + len(rows)

    kinds = nn.Linear | Conv1D | nn.Conv1d | nn.Conv2d | nn.Conv3d
    maps = [each for each in model.modules() if isinstance(each, kinds)]
    observe(model, (model_inputs(data.to_batch(each)) for each in data.batches()), maps, note)
    for module, square in sums.items():
        rms = (square / counts[module]).sqrt()
        weight: Any = module.weight
        if isinstance(module, Conv1D):
            saliency[weight] = saliency[weight] * rms[:, None]
            continue
        groups = getattr(module, "groups", 1)
        columns = rms if groups == 1 else rms.view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        shape = (-1, weight.shape[1], *[1] * (weight.dim() - 2))
        saliency[weight] = saliency[weight] * columns.reshape(shape if groups > 1 else (1, *shape[1:]))
    return saliency
