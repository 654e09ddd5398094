"""Linear layers and convolutions factored into the product of two smaller ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.core.errors import ModelError

Factorable = nn.Linear | nn.Conv2d
"""Layers that can be factored; also `Conv1D`, the linear layer of GPT-2 whose weight is (in, out)."""


class Factored(nn.Module):
    """Computes `second(first(x))` in place of one layer; `transposed`: the weight of that layer was (in, out).

    For a linear layer both factors are linear: (rank, in) and (out, rank). For a convolution, `first` has the same
    kernel, stride and padding with `rank` filters, and `second` has 1 x 1 kernels (Zhang et al., Accelerating Very
    Deep Convolutional Networks, 2015, arXiv:1505.06798). `first` has no bias. Layers with the same input may share a
    `first`.
    """

    def __init__(self, first: Factorable, second: Factorable, transposed: bool = False) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.transposed = transposed

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply both factors to the inputs of the original layer."""
        return cast(Tensor, self.second(self.first(inputs)))

    @property
    def rank(self) -> int:
        """Size of the bottleneck between the factors."""
        return self.first.weight.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the original weight."""
        return self.first.weight.flatten(1).shape[1]

    @property
    def out_features(self) -> int:
        """Rows of the original weight."""
        return self.second.weight.shape[0]

    @property
    def weight(self) -> Tensor:
        """Product of the factors, in the shape of the original weight."""
        product = self.second.weight.flatten(1) @ self.first.weight.flatten(1)
        return product.T if self.transposed else product.view(len(product), *self.first.weight.shape[1:])

    @property
    def bias(self) -> Tensor | None:
        """Bias of the original layer."""
        return self.second.bias


LinearLike = nn.Linear | Factored
"""A linear layer, whole or factored."""


def input_linear(linear: LinearLike) -> nn.Linear:
    """Return the linear layer whose columns are the inputs."""
    return cast(nn.Linear, linear.first) if isinstance(linear, Factored) else linear


def output_linear(linear: LinearLike) -> nn.Linear:
    """Return the linear layer whose rows are the outputs."""
    return cast(nn.Linear, linear.second) if isinstance(linear, Factored) else linear


def can_factor(module: nn.Module) -> bool:
    """Whether a module is exactly a linear layer or an ungrouped, zero-padded convolution, not a subclass."""
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros"
    return type(module) in (nn.Linear, Conv1D)


def insert_factors(model: nn.Module, names: Sequence[str], rank: int) -> list[Factored]:
    """Replace layers of a model by factored ones in place; the new weights are uninitialised, biases are kept.

    Args:
        names: one layer, or several with the same input, which then share one `first`.
    """
    layers = [cast(Factorable, model.get_submodule(name)) for name in names]
    made = []
    # New layers are randomly initialised and then overwritten; this must not advance the caller's random state.
    with torch.random.fork_rng(devices=[]):
        first = _first_factor(layers[0], rank)
        seconds = [_second_factor(layer, rank) for layer in layers]
    for name, layer, second in zip(names, layers, seconds, strict=True):
        factored = Factored(first, second, isinstance(layer, Conv1D)).train(layer.training)
        if layer.bias is not None:
            factored.second.bias = layer.bias
        model.set_submodule(name, factored)
        made.append(factored)
    return made


def merge_factors(model: nn.Module) -> None:
    """Replace the factored linear layers of a model by full ones, in place."""
    for name, factored in list(model.named_modules()):
        if isinstance(factored, Factored):
            columns, rows, biased = factored.in_features, factored.out_features, factored.bias is not None
            with torch.random.fork_rng(devices=[]):
                linear = Conv1D(rows, columns) if factored.transposed else nn.Linear(columns, rows, biased)
            linear.weight = nn.Parameter(factored.weight.detach().contiguous())
            if biased:
                linear.bias = factored.bias
            model.set_submodule(name, linear.train(factored.training))


def describe_factors(model: nn.Module) -> list[dict[str, Any]]:
    """Return the factored layers of a model: `modules`, the names that share a first factor, and their `rank`."""
    groups: dict[nn.Module, list[str]] = {}
    ranks: dict[nn.Module, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, Factored):
            groups.setdefault(module.first, []).append(name)
            ranks[module.first] = module.rank
    return [{"modules": names, "rank": ranks[first]} for first, names in groups.items()]


def apply_factors(model: nn.Module, description: object, where: str) -> None:
    """Factor layers of a model as described by `describe_factors`; their weights are uninitialised.

    Raises:
        ModelError: the description does not fit the model.
    """
    modules = dict(model.named_modules())
    for entry in description if isinstance(description, list) else [description]:
        names = entry.get("modules") if isinstance(entry, Mapping) else None
        rank = entry.get("rank") if isinstance(entry, Mapping) else None
        is_valid = (
            isinstance(names, list) and names and all(can_factor(modules.get(name, model)) for name in names)
        )
        if not is_valid or not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ModelError(f"no maps that fit the factors {entry!r}", where=where)
        assert isinstance(names, list)
        insert_factors(model, names, rank)


def _first_factor(layer: Factorable, rank: int) -> Factorable:
    tensor_options: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if not isinstance(layer, nn.Conv2d):
        return nn.Linear(_out_in_features(layer)[1], rank, bias=False, **tensor_options)
    kernel = cast(tuple[int, int], layer.kernel_size)
    return nn.Conv2d(
        layer.in_channels,
        rank,
        kernel,
        stride=cast(tuple[int, int], layer.stride),
        padding=cast(tuple[int, int], layer.padding),
        dilation=cast(tuple[int, int], layer.dilation),
        bias=False,
        **tensor_options,
    )


def _second_factor(layer: Factorable, rank: int) -> Factorable:
    tensor_options: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    biased = layer.bias is not None
    if not isinstance(layer, nn.Conv2d):
        return nn.Linear(rank, _out_in_features(layer)[0], bias=biased, **tensor_options)
    return nn.Conv2d(rank, layer.out_channels, 1, bias=biased, **tensor_options)


def _out_in_features(linear: nn.Linear) -> torch.Size:
    """Output and input features of a linear layer."""
    return linear.weight.shape[::-1] if isinstance(linear, Conv1D) else linear.weight.shape
