"""Losses are computed in float32, whatever the models' precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor

Parameters = ParamSpec("Parameters")


def in_float32(function: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """Decorator: call `function` with autocast off and its positional float tensors cast to float32.

    In bf16, sums of squares and softmaxes lose the differences that a loss compares, and fp16 overflows.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        tensors = [value for value in args if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return cast(Callable[..., Tensor], function)(*map(float32, args), **kwargs)

    return wrapper


def float32(value: Any) -> Any:
    """Cast a floating-point tensor to float32; return anything else unchanged."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
