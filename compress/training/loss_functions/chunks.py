"""A loss over many rows of logits, computed in chunks to save a float32 copy of all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = {"cpu": 2**20, "cuda": 2**24}
"""Number of logits converted to float32 at a time, by device.

On CPUs 4 MiB, which stay in cache while they are read several times; on a GPU kernel launches would take longer
than the work on so few.
"""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Function from rows of logits and their targets to the mean loss over these rows."""


def in_chunks(
    loss: RowLoss,
    logits: Tensor,
    targets: Tensor,
    max_logits: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the mean of a loss over the selected rows, a float32 scalar, computed in chunks.

    For no rows it is 0. The gradient is computed in the forward pass, in the dtype of the logits. Rows that are
    not selected are not copied.

    Args:
        logits: (n, classes) or (n, t, classes), any float type.
        targets: targets of the selected rows, in their order, (m, ...); no gradient reaches them.
        max_logits: maximum number of logits in a chunk; None: by device.
        mask: bool (n, t) or (n,), the selected rows; None: all.
    """
    if not len(targets):
        return logits.float().sum() * 0.0
    rows = logits.flatten(0, -2)
    indices = None if mask is None or bool(mask.all()) else mask.flatten().nonzero()[:, 0]
    chunk_rows = max(
        1, (max_logits or CHUNK_LOGITS.get(logits.device.type, CHUNK_LOGITS["cuda"])) // rows.shape[-1]
    )
    if len(targets) <= chunk_rows:
        return loss(rows if indices is None else rows[indices], targets)
    mean_loss: Tensor = _Chunked.apply(loss, rows, targets.detach(), indices, chunk_rows)  # type: ignore[no-untyped-call]
    return mean_loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: RowLoss, logits: Tensor, targets: Tensor, indices: Tensor | None, chunk_rows: int
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[1]
        allocate = torch.empty_like if indices is None else torch.zeros_like
        gradient = allocate(logits) if needs_grad else None
        total = torch.zeros((), device=logits.device)
        for start in range(0, len(targets), chunk_rows):
            rows: Any = slice(start, start + chunk_rows)
            chunk_targets = targets[rows]
            if indices is not None:
                rows = indices[rows]
            chunk = logits[rows].detach().requires_grad_(needs_grad)
            with torch.set_grad_enabled(needs_grad):
                value = loss(chunk, chunk_targets) * (len(chunk_targets) / len(targets))
            if gradient is not None:
                (gradient[rows],) = torch.autograd.grad(value, chunk)
            total += value.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        factor = upstream[0].to(gradient.dtype)
        # The gradient is referenced nowhere else, so it is scaled in place.
        return None, gradient if bool(factor == 1) else gradient.mul_(factor), None, None, None
