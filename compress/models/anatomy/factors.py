"""Linear layers and convolutions factored into the product of two smaller ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.core.errors import ModelError

Whole = nn.Linear | nn.Conv2d
"""Layers that can be factored; also `Conv1D`, the linear layer of GPT-2 whose weight is (in, out)."""


class Factored(nn.Module):
    """Computes `second(first(x))` in place of one layer; `turned`: the weight of that layer was (in, out).

    For a linear layer both factors are linear: (rank, in) and (out, rank). For a convolution, `first` has the same
    kernel, stride and padding with `rank` filters, and `second` has 1 x 1 kernels (Zhang et al., Accelerating Very
    Deep Convolutional Networks, 2015, arXiv:1505.06798). `first` has no bias. Layers with the same input may share a
    `first`.
    """

    def __init__(self, first: Whole, second: Whole, turned: bool = False) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.turned = turned

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
        return product.T if self.turned else product.view(len(product), *self.first.weight.shape[1:])

    @property
    def bias(self) -> Tensor | None:
        """Bias of the original layer."""
        return self.second.bias


Map = nn.Linear | Factored
"""A linear layer, whole or factored."""


def input_linear(linear: Map) -> nn.Linear:
    """Return the linear layer whose columns are the inputs."""
    return cast(nn.Linear, linear.first) if isinstance(linear, Factored) else linear


def output_linear(linear: Map) -> nn.Linear:
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
    wholes = [cast(Whole, model.get_submodule(name)) for name in names]
    made = []
    # New layers are randomly initialised and then overwritten; this must not advance the caller's random state.
    with torch.random.fork_rng(devices=[]):
        first = _first(wholes[0], rank)
        seconds = [_second(whole, rank) for whole in wholes]
    for name, whole, second in zip(names, wholes, seconds, strict=True):
        factored = Factored(first, second, isinstance(whole, Conv1D)).train(whole.training)
        if whole.bias is not None:
            factored.second.bias = whole.bias
        model.set_submodule(name, factored)
        made.append(factored)
    return made


def merge_factors(model: nn.Module) -> None:
    """Replace the factored linear layers of a model by full ones, in place."""
    for name, factored in list(model.named_modules()):
        if isinstance(factored, Factored):
            columns, rows, biased = factored.in_features, factored.out_features, factored.bias is not None
            with torch.random.fork_rng(devices=[]):
                whole = Conv1D(rows, columns) if factored.turned else nn.Linear(columns, rows, biased)
            whole.weight = nn.Parameter(factored.weight.detach().contiguous())
            if biased:
                whole.bias = factored.bias
            model.set_submodule(name, whole.train(factored.training))


def describe_factors(model: nn.Module) -> list[dict[str, Any]]:
    """Return the factored layers of a model: `modules`, the names that share a first factor, and their `rank`."""
    groups: dict[nn.Module, list[str]] = {}
    ranks: dict[nn.Module, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, Factored):
            groups.setdefault(module.first, []).append(name)
            ranks[module.first] = module.rank
    return [{"modules": names, "rank": ranks[first]} for first, names in groups.items()]


def apply_factors(model: nn.Module, described: object, where: str) -> None:
    """Factor layers of a model as described by `describe_factors`; their weights are uninitialised.

    Raises:
        ModelError: the description does not fit the model.
    """
    modules = dict(model.named_modules())
    for entry in described if isinstance(described, list) else [described]:
        names = entry.get("modules") if isinstance(entry, Mapping) else None
        rank = entry.get("rank") if isinstance(entry, Mapping) else None
        known = (
            isinstance(names, list) and names and all(can_factor(modules.get(name, model)) for name in names)
        )
        if not known or not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ModelError(f"no maps that fit the factors {entry!r}", where=where)
        assert isinstance(names, list)
        insert_factors(model, names, rank)


def _first(whole: Whole, rank: int) -> Whole:
    like: dict[str, Any] = {"device": whole.weight.device, "dtype": whole.weight.dtype}
    if not isinstance(whole, nn.Conv2d):
        return nn.Linear(_sides(whole)[1], rank, bias=False, **like)
    kernel = cast(tuple[int, int], whole.kernel_size)
    return nn.Conv2d(
        whole.in_channels,
        rank,
        kernel,
        stride=cast(tuple[int, int], whole.stride),
        padding=cast(tuple[int, int], whole.padding),
        dilation=cast(tuple[int, int], whole.dilation),
        bias=False,
        **like,
    )


def _second(whole: Whole, rank: int) -> Whole:
    like: dict[str, Any] = {"device": whole.weight.device, "dtype": whole.weight.dtype}
    biased = whole.bias is not None
    if not isinstance(whole, nn.Conv2d):
        return nn.Linear(rank, _sides(whole)[0], bias=biased, **like)
    return nn.Conv2d(rank, whole.out_channels, 1, bias=biased, **like)


def _sides(whole: nn.Linear) -> torch.Size:
    """Output and input features of a linear layer."""
    return whole.weight.shape[::-1] if isinstance(whole, Conv1D) else whole.weight.shape
