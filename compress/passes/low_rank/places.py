"""Which maps of a model are factored, which of them together, and what they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import decoder_of
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.factors import Whole, can_factor, insert_factors
from compress.models.anatomy.observing import Batches, MomentSums, observe, token_rows
from compress.passes.low_rank.factoring import Decomposition

CHUNK = 1 << 22
"""Numbers of a convolution's patches that are held at once."""


@dataclass(frozen=True)
class Place:
    """A map that is factored, or several that read the same and get one first factor: query, key and value, whose
    product then stays one, and of a decoder the gate with what it is multiplied with.

    `weight` is theirs, one below the other: (rows, columns), where a convolution's columns are channels times kernel.
    """

    modules: tuple[str, ...]
    weight: Tensor

    @property
    def name(self) -> str:
        """What reports call the place: the first module."""
        return self.modules[0]

    @property
    def rows(self) -> int:
        """Outputs of all its maps."""
        return len(self.weight)

    @property
    def columns(self) -> int:
        """Inputs."""
        return self.weight.shape[1]

    def saved(self, rank: int) -> int:
        """How many parameters factors of this rank save."""
        return self.rows * self.columns - rank * (self.rows + self.columns)


def places_of(model: nn.Module, exclude: Sequence[str]) -> list[Place]:
    """The places of a model: the maps of the layers of an encoder or decoder that we know, else every linear map and
    convolution.

    Args:
        exclude: shell patterns of module names; one that names a part of a place leaves out the place.

    Raises:
        ModelError: there is nothing to factor, or a pattern fits no module.
    """
    names = {module: name for name, module in model.named_modules()}
    weights = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    groups = [
        tuple(names[module] for module in group)
        for group in _groups(model)
        if all(can_factor(module) and weights.count(id(module.weight)) == 1 for module in group)
    ]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names.values()):
            raise ModelError(
                f"no module of the model matches the pattern {pattern!r}",
                where="low_rank.exclude",
                hint=f"The maps are: {', '.join(name for group in groups for name in group)}",
            )
    chosen = [
        group
        for group in groups
        if not any(fnmatchcase(name, pattern) for name in group for pattern in exclude)
    ]
    if not chosen:
        what = (
            "all its maps are excluded" if groups else "it has no standard torch linear maps or convolutions"
        )
        raise ModelError(f"nothing in this model can be factored: {what}", where="low_rank")
    return [Place(group, torch.cat([_matrix(model, name) for name in group])) for group in chosen]


def factor(model: nn.Module, place: Place, decomposition: Decomposition, rank: int) -> None:
    """Put the factors of a rank in place, in the model."""
    first, second = decomposition.factors(rank)
    made = insert_factors(model, place.modules, rank)
    with torch.no_grad():
        made[0].first.weight.copy_(first.view_as(made[0].first.weight))
        rows = torch.split(second, [each.out_features for each in made])
        for each, part in zip(made, rows, strict=True):
            each.second.weight.copy_(part.reshape(each.second.weight.shape))


def second_moments(model: nn.Module, places: Sequence[Place], batches: Batches) -> list[Tensor]:
    """E[x x^T] of what each place reads, float64 (columns, columns); padding of texts is left out.

    Raises:
        ModelError: a place read nothing.
    """
    modules = [cast(Whole, model.get_submodule(place.name)) for place in places]
    sums = {module: MomentSums() for module in modules}

    def note(module: nn.Module, reads: Tensor, gives: Tensor, mask: Tensor | None) -> None:
        for rows in _rows(cast(Whole, module), reads, mask):
            sums[cast(Whole, module)].add(rows)

    decoder = decoder_of(model)
    # What stands behind the layers would be computed for every word.
    observe(model if decoder is None else base_of(decoder.model, decoder.network), batches(), modules, note)
    return [
        sums[module].moments(ModelError("no example reached this map", where=place.name)).square
        for place, module in zip(places, modules, strict=True)
    ]


def _groups(model: nn.Module) -> list[tuple[Whole, ...]]:
    """The maps of a model that could be factored, those together that read the same."""
    if (decoder := decoder_of(model)) is not None:
        maps = (group for layer in range(len(decoder.blocks)) for group in decoder.maps(layer))
        return [cast(tuple[Whole, ...], group) for group in maps]
    try:
        layers = encoder_of(model).layers
    except ModelError:
        return [(module,) for module in model.modules() if isinstance(module, Whole) and can_factor(module)]
    return [cast(tuple[Whole, ...], group) for layer in layers for group in layer.maps]


def _matrix(model: nn.Module, name: str) -> Tensor:
    whole = cast(Whole, model.get_submodule(name))
    matrix = whole.weight.detach().cpu().flatten(1)
    return matrix.T if isinstance(whole, Conv1D) else matrix


def _rows(module: Whole, inputs: Tensor, mask: Tensor | None) -> Iterable[Tensor]:
    """What a map multiplies, float32 (n, columns), in parts."""
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
    for part in torch.split(inputs, max(1, CHUNK // (columns * outputs))):
        patches = nn.functional.unfold(
            part, module.kernel_size, dilation=module.dilation, padding=padding, stride=module.stride
        )
        yield patches.transpose(1, 2).reshape(-1, columns)
