"""A loss over many rows of logits, some rows at a time: in float32 they would take as much again as the model gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NUMBERS = {"cpu": 2**20, "cuda": 2**24}
"""Logits that are taken to float32 together, by device: 4 MiB, which caches hold while each is read several times; on a
GPU a launch would take longer than the work on so few."""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""From some rows of logits and of what they are compared with to the mean over these rows."""


def in_chunks(
    loss: RowLoss,
    logits: Tensor,
    goal: Tensor,
    numbers: int | None = None,
    compared: Tensor | None = None,
) -> Tensor:
    """The mean of a loss over the rows that are compared, a float32 scalar; what it needs in float32 exists for a few
    rows at a time.

    Of no rows it is 0. The gradient is computed along with the value, in the type of the logits. Rows that are not
    compared are not copied.

    Args:
        logits: (n, classes) or (n, t, classes), any float type.
        goal: of each row that is compared, in their order, (m, ...), to which no gradient goes.
        numbers: logits of a chunk, at most; None: by device.
        compared: bool (n, t) or (n,); None: all rows.
    """
    if not len(goal):
        return logits.float().sum() * 0.0
    rows = logits.flatten(0, -2)
    places = None if compared is None or bool(compared.all()) else compared.flatten().nonzero()[:, 0]
    size = max(1, (numbers or NUMBERS.get(logits.device.type, NUMBERS["cuda"])) // rows.shape[-1])
    if len(goal) <= size:
        return loss(rows if places is None else rows[places], goal)
    found: Tensor = _Chunked.apply(loss, rows, goal.detach(), places, size)  # type: ignore[no-untyped-call]
    return found


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: RowLoss, logits: Tensor, goal: Tensor, places: Tensor | None, size: int
    ) -> Tensor:
        wanted = ctx.needs_input_grad[1]
        made = torch.empty_like if places is None else torch.zeros_like
        gradient = made(logits) if wanted else None
        total = torch.zeros((), device=logits.device)
        for start in range(0, len(goal), size):
            chosen: Any = slice(start, start + size)
            goals = goal[chosen]
            if places is not None:
                chosen = places[chosen]
            some = logits[chosen].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                value = loss(some, goals) * (len(goals) / len(goal))
            if gradient is not None:
                (gradient[chosen],) = torch.autograd.grad(value, some)
            total += value.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        factor = upstream[0].to(gradient.dtype)
        # Nobody else holds it.
        return None, gradient if bool(factor == 1) else gradient.mul_(factor), None, None, None
