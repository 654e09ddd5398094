"""Select the maps of a model to factor, group those with a common input, and collect moments of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import decoder_of
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.factors import Factorable, can_factor, insert_factors
from compress.models.anatomy.observing import Batches, MomentSums, observe, token_rows
from compress.passes.low_rank.factoring import Decomposition
from compress.passes.patterns import matching_names

MAX_PATCH_VALUES = 1 << 22
"""Maximum number of values of a convolution's patches held in memory at once."""


@dataclass(frozen=True)
class FactorGroup:
    """A map that is factored, or several with the same input that share the first factor.

    Query, key and value are grouped and remain a single product; in a decoder, so are the gate and the map whose output
    it multiplies. `weight` stacks their weights: (rows, columns), where a convolution's columns are channels times
    kernel.
    """

    modules: tuple[str, ...]
    weight: Tensor

    @property
    def name(self) -> str:
        """Name of the place in reports: its first module."""
        return self.modules[0]

    @property
    def rows(self) -> int:
        """Total number of outputs of its maps."""
        return len(self.weight)

    @property
    def columns(self) -> int:
        """Number of inputs."""
        return self.weight.shape[1]

    def saved_parameters(self, rank: int) -> int:
        """Return how many parameters factors of this rank save."""
        return self.rows * self.columns - rank * (self.rows + self.columns)


def factor_groups(model: nn.Module, exclude: Sequence[str]) -> list[FactorGroup]:
    """Return the places of a model: maps in the layers of a known architecture, else all linear maps and convolutions.

    Args:
        exclude: shell patterns of module names; a pattern that matches part of a place excludes the whole place.

    Raises:
        ModelError: there is nothing to factor, or a pattern matches no module.
    """
    names = {module: name for name, module in model.named_modules()}
    weights = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    groups = [
        tuple(names[module] for module in group)
        for group in _candidate_groups(model)
        if all(can_factor(module) and weights.count(id(module.weight)) == 1 for module in group)
    ]
    excluded = matching_names(
        list(names.values()),
        exclude,
        what="module",
        where="low_rank.exclude",
        known=[name for group in groups for name in group],
    )
    kept = [group for group in groups if excluded.isdisjoint(group)]
    if not kept:
        what = (
            "all its maps are excluded" if groups else "it has no standard torch linear maps or convolutions"
        )
        raise ModelError(f"nothing in this model can be factored: {what}", where="low_rank")
    return [FactorGroup(group, torch.cat([_matrix(model, name) for name in group])) for group in kept]


def factor(model: nn.Module, group: FactorGroup, decomposition: Decomposition, rank: int) -> None:
    """Replace the maps of a place by factors of a rank, in the model."""
    first, second = decomposition.factors(rank)
    factored = insert_factors(model, group.modules, rank)
    with torch.no_grad():
        factored[0].first.weight.copy_(first.view_as(factored[0].first.weight))
        rows = torch.split(second, [each.out_features for each in factored])
        for each, part in zip(factored, rows, strict=True):
            each.second.weight.copy_(part.reshape(each.second.weight.shape))


def second_moments(model: nn.Module, groups: Sequence[FactorGroup], batches: Batches) -> list[Tensor]:
    """Return E[x x^T] of the input of each place, float64 (columns, columns); padding of texts is excluded.

    Raises:
        ModelError: a place received no input.
    """
    modules = [cast(Factorable, model.get_submodule(group.name)) for group in groups]
    sums = {module: MomentSums() for module in modules}

    def note(module: nn.Module, inputs: Tensor, outputs: Tensor, mask: Tensor | None) -> None:
        for rows in _input_rows(cast(Factorable, module), inputs, mask):
            sums[cast(Factorable, module)].add(rows)

    decoder = decoder_of(model)
    # Without the head, which would be computed for every token.
    observe(model if decoder is None else base_of(decoder.model, decoder.network), batches(), modules, note)
    return [
        sums[module].moments(ModelError("no example reached this map", where=group.name)).second_moments
        for group, module in zip(groups, modules, strict=True)
    ]


def _candidate_groups(model: nn.Module) -> list[tuple[Factorable, ...]]:
    """Return the candidate maps of a model, grouped by common input."""
    if (decoder := decoder_of(model)) is not None:
        maps = (group for layer in range(len(decoder.blocks)) for group in decoder.linear_groups(layer))
        return [cast(tuple[Factorable, ...], group) for group in maps]
    try:
        layers = encoder_of(model).layers
    except ModelError:
        return [
            (module,) for module in model.modules() if isinstance(module, Factorable) and can_factor(module)
        ]
    return [cast(tuple[Factorable, ...], group) for layer in layers for group in layer.linear_groups]


def _matrix(model: nn.Module, name: str) -> Tensor:
    module = cast(Factorable, model.get_submodule(name))
    matrix = module.weight.detach().cpu().flatten(1)
    return matrix.T if isinstance(module, Conv1D) else matrix


def _input_rows(module: Factorable, inputs: Tensor, mask: Tensor | None) -> Iterable[Tensor]:
    """Yield the inputs of a map in chunks, float32 (n, columns)."""
    if not isinstance(module, nn.Conv2d):
        yield token_rows(inputs, mask)
        return
    inputs, padding = inputs.float(), module.padding
    if isinstance(padding, str):
        sides = zip(module.dilation, module.kernel_size, strict=True)
        high, wide = (step * (side - 1) * (padding == "same") for step, side in sides)
        inputs = nn.functional.pad(inputs, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        padding = (0, 0)
    columns = module.weight[0].numel()
    outputs = inputs[0, 0].numel()
    for part in torch.split(inputs, max(1, MAX_PATCH_VALUES // (columns * outputs))):
        patches = nn.functional.unfold(
            part, module.kernel_size, dilation=module.dilation, padding=padding, stride=module.stride
        )
        yield patches.transpose(1, 2).reshape(-1, columns)
