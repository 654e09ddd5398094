"""A loss over many rows of logits, computed in chunks to save a float32 copy of all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NUMBERS = {"cpu": 2**20, "cuda": 2**24}
"""Number of logits converted to float32 at a time, by device.

On CPUs 4 MiB, which stay in cache while they are read several times; on a GPU kernel launches would take longer
than the work on so few.
"""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Function from rows of logits and their targets to the mean loss over these rows."""


def in_chunks(
    loss: RowLoss,
    logits: Tensor,
    goal: Tensor,
    numbers: int | None = None,
    compared: Tensor | None = None,
) -> Tensor:
    """Return the mean of a loss over the selected rows, a float32 scalar, computed in chunks.

    For no rows it is 0. The gradient is computed in the forward pass, in the dtype of the logits. Rows that are
    not selected are not copied.

    Args:
        logits: (n, classes) or (n, t, classes), any float type.
        goal: targets of the selected rows, in their order, (m, ...); no gradient reaches them.
        numbers: maximum number of logits in a chunk; None: by device.
        compared: bool (n, t) or (n,), the selected rows; None: all.
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
        # The gradient is referenced nowhere else, so it is scaled in place.
        return None, gradient if bool(factor == 1) else gradient.mul_(factor), None, None, None
