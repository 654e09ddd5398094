"""A loss over many rows of logits, some rows at a time: in float32 they would take as much again as the model gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NUMBERS = 2**22
"""Logits that are taken to float32 together: 16 MiB."""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""From some rows of logits and of what they are compared with to the mean over these rows."""


def in_chunks(loss: RowLoss, logits: Tensor, goal: Tensor, numbers: int = NUMBERS) -> Tensor:
    """The mean of a loss over all rows, a float32 scalar; what it needs in float32 exists for a few rows at a time.

    The gradient is computed along with the value, in the type of the logits.

    Args:
        logits: (n, classes), any float type.
        goal: (n, ...), to which no gradient goes.
        numbers: logits of a chunk, at most.
    """
    rows = max(1, numbers // logits.shape[-1])
    if len(logits) <= rows:
        return loss(logits, goal)
    found: Tensor = _Chunked.apply(loss, logits, goal.detach(), rows)  # type: ignore[no-untyped-call]
    return found


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: RowLoss, logits: Tensor, goal: Tensor, rows: int) -> Tensor:
        wanted = ctx.needs_input_grad[1]
        gradient = torch.empty_like(logits) if wanted else None
        total = torch.zeros((), device=logits.device)
        for start in range(0, len(logits), rows):
            some = logits[start : start + rows].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                value = loss(some, goal[start : start + rows]) * (len(some) / len(logits))
            if gradient is not None:
                (gradient[start : start + rows],) = torch.autograd.grad(value, some)
            total += value.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        return None, gradient * upstream[0].to(gradient.dtype), None, None
