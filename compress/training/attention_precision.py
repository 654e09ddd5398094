"""Float32 attention under bfloat16 training: on CPUs the backward pass of torch's bfloat16 attention is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from compress.training.loss_functions.precision import float32


class Float32Attention(TorchFunctionMode):
    """Compute `scaled_dot_product_attention` of bfloat16 queries on the CPU in float32 where gradients are enabled.

    The result is cast back to bfloat16. With torch's kernels, forward and backward of batch 64, 4 heads of size
    32 take 1.2 ms in float32 and 5 ms in bfloat16 for 11 tokens, 0.9 and 25 ms for 16 tokens; without gradients
    bfloat16 is as fast.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Intercept every torch function; only attention is changed."""
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        query = args[0] if args else kwargs["query"]
        if query.dtype is not torch.bfloat16 or query.device.type != "cpu":
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            float32_args = tuple(float32(value) for value in args)
            result = func(*float32_args, **{name: float32(value) for name, value in kwargs.items()})
        return result.to(torch.bfloat16)
