"""Quantization-aware training: a model that runs on simulated quantized values while its own weights stay in float.

Weights are rounded before each forward pass and substituted by a functional call; module inputs are rounded by
forward pre-hooks, and values between convolutions where they are computed. No module of the model is changed,
and `release` removes the hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.encoding.inputs import model_inputs
from compress.models.anatomy.observing import evaluating
from compress.training.rounding.integers import fake_quantize_activations, straight_through
from compress.training.rounding.operations import InterceptedOperations, Operation, not_intercepted
from compress.training.rounding.substitution import run_with_weights

MOMENTUM = 0.1
"""Weight of a batch in a running range."""


@dataclass(frozen=True)
class FakeQuantizedWeight:
    """Parameters, by name, that form one weight of the file, and how they are rounded together.

    `norm` is the BatchNorm that is folded into the weight before rounding.
    """

    names: tuple[str, ...]
    rounding: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    norm: _BatchNorm | None = None


@dataclass(frozen=True)
class FakeQuantizedActivation:
    """An activation that is rounded to 256 integers: the input of a named module, or the result of an operation.

    The range is a running one, or, unless `running_range`, that of each batch, as in dynamic quantization.
    `symmetric` makes a running range with both signs symmetric around zero. `tokens`: indices of the tokens of
    (batch, tokens, width) that the file computes; the range is taken over them alone; None: all.
    """

    source: str | Operation
    running_range: bool
    symmetric: bool = False
    tokens: tuple[int, ...] | None = None


class FakeQuantizedModel(nn.Module):
    """`model` with simulated quantization. BatchNorms stay in eval mode, since they will be folded."""

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[FakeQuantizedWeight],
        activations: Sequence[FakeQuantizedActivation],
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = tuple(weights)
        self.ranges = nn.ModuleList(_ActivationQuantizer(activation) for activation in activations)
        self._operation_quantizers: dict[Operation, _ActivationQuantizer] = {}
        self._hooks = []
        for quantizer in self._quantizers():
            source = quantizer.activation.source
            if isinstance(source, Operation):
                self._operation_quantizers[source] = quantizer
            else:
                self._hooks.append(
                    model.get_submodule(source).register_forward_pre_hook(_input_hook(quantizer))
                )
        self.train(model.training)

    def forward(self, **batch: Tensor) -> Any:
        """Return the model's result for a batch."""
        weights = self.quantized_weights()
        with self._quantized_operations():
            return run_with_weights(self.model, weights, batch)

    def quantized_weights(self) -> dict[str, Tensor]:
        """Return the weights, by name, that the model runs on; the factor of a folded norm is divided out again."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        quantized: dict[str, Tensor] = {}
        for weight in self.weights:
            originals = [parameters[name] for name in weight.names]
            quantized.update(
                zip(
                    weight.names,
                    map(straight_through, originals, _fake_quantized(weight, originals)),
                    strict=True,
                )
            )
        return quantized

    def train(self, mode: bool = True) -> FakeQuantizedModel:
        """Set the mode as for any module, except that BatchNorms stay in eval mode."""
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def calibrate(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Initialize the running ranges from the unrounded model on these batches."""
        quantizers = self._quantizers()
        if not any(quantizer.activation.running_range for quantizer in quantizers):
            return
        for quantizer in quantizers:
            quantizer.start_observing()
        with evaluating(self), torch.no_grad():
            for batch in batches:
                with self._quantized_operations():
                    self.model(**model_inputs(batch))
        for quantizer in quantizers:
            quantizer.observing = False

    def release(self) -> nn.Module:
        """Remove the hooks and return the model."""
        for hook in self._hooks:
            hook.remove()
        return self.model

    def _quantized_operations(self) -> AbstractContextManager[object]:
        """Return a context in which the results of operations are rounded, for one forward pass."""
        if not self._operation_quantizers:
            return nullcontext()
        return InterceptedOperations(
            lambda operation, made: (
                self._operation_quantizers[operation](made)
                if operation in self._operation_quantizers
                else made
            )
        )

    def _quantizers(self) -> list[_ActivationQuantizer]:
        return [cast(_ActivationQuantizer, quantizer) for quantizer in self.ranges]


class _ActivationQuantizer(nn.Module):
    """Rounds one activation; `low` and `high` are its running range."""

    low: Tensor
    high: Tensor

    def __init__(self, activation: FakeQuantizedActivation) -> None:
        super().__init__()
        self.activation = activation
        self.observing = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def start_observing(self) -> None:
        """Reset the range and start observing."""
        self.low.zero_()
        self.high.zero_()
        self.observing = True

    def forward(self, values: Tensor) -> Tensor:
        """Return the values rounded, or unchanged while observing."""
        low, high = self._min_max(values)
        if self.observing:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
            return values
        if not self.activation.running_range:
            return fake_quantize_activations(values, low, high)
        if self.training:
            self.low.lerp_(low, MOMENTUM)
            self.high.lerp_(high, MOMENTUM)
        low, high = self.low, self.high
        if self.activation.symmetric and bool(low < 0) and bool(high > 0):
            high = torch.maximum(-low, high)
            low = -high
        return fake_quantize_activations(values, low, high)

    @torch.no_grad()
    def _min_max(self, values: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.activation.tokens
        observed = values[:, list(tokens)] if tokens is not None and values.ndim > 2 else values
        low, high = observed.detach().float().aminmax()
        return low, high


def _input_hook(quantizer: _ActivationQuantizer) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a pre-hook that rounds a module's first input."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        with not_intercepted():
            return (quantizer(args[0]), *args[1:])

    return hook


def folding_factors(norm: _BatchNorm) -> Tensor:
    """Return the factors, (outputs,), by which folding a norm scales each output of a weight."""
    variance = norm.running_var
    assert variance is not None
    scale = torch.rsqrt(variance.detach() + norm.eps)
    return scale if norm.weight is None else norm.weight.detach() * scale


@torch.no_grad()
def _fake_quantized(weight: FakeQuantizedWeight, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the parameters rounded as they will be after folding the norm."""
    if weight.norm is None:
        return weight.rounding(parameters)
    factors = folding_factors(weight.norm).view(-1, *[1] * (parameters[0].ndim - 1))
    divisors = factors.where(factors != 0, 1.0)
    return [values / divisors for values in weight.rounding([values * factors for values in parameters])]
