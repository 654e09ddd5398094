"""A model that runs on the numbers which its quantized file will have, while its own stay as they are.

Weights are rounded before each forward pass and put in by a functional call; what layers read is rounded by forward
hooks, and what lies between convolutions where it is made. No module of the model is changed, and `release` takes the
hooks off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.encoding.inputs import taken
from compress.models.anatomy.observing import evaluating
from compress.training.rounding.integers import round_activations, through
from compress.training.rounding.operations import Operation, Watched, unwatched
from compress.training.rounding.substitution import run_on

MOMENTUM = 0.1
"""What a batch counts in a running range."""


@dataclass(frozen=True)
class RoundedWeight:
    """Parameters, by name, that are one weight of the file, and how they are rounded together.

    `norm` is the BatchNorm that is folded into the weight before it is rounded.
    """

    names: tuple[str, ...]
    rounding: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    norm: _BatchNorm | None = None


@dataclass(frozen=True)
class RoundedValue:
    """What a module, by name, reads, or what an operation makes, is rounded to 256 integers.

    Their range is a running one, or, unless `running`, that of each batch, as it is found at run time. `symmetric`
    makes a running range that holds both signs symmetric around zero. `tokens` are those of (batch, tokens, width)
    that the file computes, whose range alone counts; None: all.
    """

    place: str | Operation
    running: bool
    symmetric: bool = False
    tokens: tuple[int, ...] | None = None


class RoundedModel(nn.Module):
    """`model` with rounding simulated. A BatchNorm keeps its statistics, as one that is folded does."""

    def __init__(
        self, model: nn.Module, weights: Sequence[RoundedWeight], values: Sequence[RoundedValue]
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = tuple(weights)
        self.ranges = nn.ModuleList(_Ranged(value) for value in values)
        self._made: dict[Operation, _Ranged] = {}
        self._hooks = []
        for ranged in self._ranges():
            place = ranged.value.place
            if isinstance(place, Operation):
                self._made[place] = ranged
            else:
                self._hooks.append(model.get_submodule(place).register_forward_pre_hook(_before(ranged)))
        self.train(model.training)

    def forward(self, **batch: Tensor) -> Any:
        """What the model gives for a batch."""
        weights = self.rounded_weights()
        with self._rounding():
            return run_on(self.model, weights, batch)

    def rounded_weights(self) -> dict[str, Tensor]:
        """The weights, by name, that the model runs on: where a norm will be folded in, its factor is out again."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        found: dict[str, Tensor] = {}
        for weight in self.weights:
            own = [parameters[name] for name in weight.names]
            found.update(zip(weight.names, map(through, own, _rounded(weight, own)), strict=True))
        return found

    def train(self, mode: bool = True) -> RoundedModel:
        """As of any module, but for the BatchNorms."""
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def observe(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Set the running ranges to what the model, unrounded, reads and gives on these batches."""
        every = self._ranges()
        if not any(ranged.value.running for ranged in every):
            return
        for ranged in every:
            ranged.begin()
        with evaluating(self), torch.no_grad():
            for batch in batches:
                with self._rounding():
                    self.model(**taken(batch))
        for ranged in every:
            ranged.observing = False

    def release(self) -> nn.Module:
        """The model alone again."""
        for hook in self._hooks:
            hook.remove()
        return self.model

    def _rounding(self) -> AbstractContextManager[object]:
        """Rounds what operations make, in the forward pass that it stands open for."""
        if not self._made:
            return nullcontext()
        return Watched(
            lambda operation, made: self._made[operation](made) if operation in self._made else made
        )

    def _ranges(self) -> list[_Ranged]:
        return [cast(_Ranged, ranged) for ranged in self.ranges]


class _Ranged(nn.Module):
    """Rounds one value; `low` and `high` are its running range."""

    low: Tensor
    high: Tensor

    def __init__(self, value: RoundedValue) -> None:
        super().__init__()
        self.value = value
        self.observing = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def begin(self) -> None:
        """Forget the range, and widen it by whatever comes."""
        self.low.zero_()
        self.high.zero_()
        self.observing = True

    def forward(self, values: Tensor) -> Tensor:
        """The values as integers stand for them, or as they are while they are observed."""
        low, high = self._extremes(values)
        if self.observing:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
            return values
        if not self.value.running:
            return round_activations(values, low, high)
        if self.training:
            self.low.lerp_(low, MOMENTUM)
            self.high.lerp_(high, MOMENTUM)
        low, high = self.low, self.high
        if self.value.symmetric and bool(low < 0) and bool(high > 0):
            high = torch.maximum(-low, high)
            low = -high
        return round_activations(values, low, high)

    @torch.no_grad()
    def _extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.value.tokens
        seen = values[:, list(tokens)] if tokens is not None and values.ndim > 2 else values
        low, high = seen.detach().float().aminmax()
        return low, high


def _before(ranged: _Ranged) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that rounds what a module reads."""

    def hook(_: nn.Module, reads: tuple[Any, ...]) -> tuple[Any, ...]:
        with unwatched():
            return (ranged(reads[0]), *reads[1:])

    return hook


def folding_factors(norm: _BatchNorm) -> Tensor:
    """What folding a norm in multiplies each output of a weight by, (outputs,)."""
    variance = norm.running_var
    assert variance is not None
    scale = torch.rsqrt(variance.detach() + norm.eps)
    return scale if norm.weight is None else norm.weight.detach() * scale


@torch.no_grad()
def _rounded(weight: RoundedWeight, own: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parameters as integers stand for them once the norm is folded in."""
    if weight.norm is None:
        return weight.rounding(own)
    factors = folding_factors(weight.norm).view(-1, *[1] * (own[0].ndim - 1))
    back = factors.where(factors != 0, 1.0)
    return [one / back for one in weight.rounding([one * factors for one in own])]
