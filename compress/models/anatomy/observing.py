"""Running a model on examples with hooks on some of its modules, and moments accumulated over batches of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.core.errors import ModelError
from compress.models.students.projection import Moments

Batches = Callable[[], Iterable[dict[str, Tensor]]]
"""Starts an iteration over batches of examples encoded for the model; a few hundred examples are enough."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; restores the training flag of every module on exit."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def removing_hooks(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks on exit."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


class MomentSums:
    """Accumulates moments of rows in float64, in memory independent of their number."""

    def __init__(self) -> None:
        self._count = 0
        self._total: Tensor | float = 0.0
        self._outer_products: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Add rows (n, d); their products are computed in their own dtype."""
        self._count += len(rows)
        self._total = self._total + rows.sum(dim=0, dtype=torch.float64).cpu()
        self._outer_products = self._outer_products + (rows.T @ rows).double().cpu()

    def moments(self, no_rows: ModelError) -> Moments:
        """Return the moments of all rows.

        Raises:
            ModelError: `no_rows`, if no rows were added.
        """
        if not isinstance(self._total, Tensor) or not isinstance(self._outer_products, Tensor):
            raise no_rows
        return Moments(self._total / self._count, self._outer_products / self._count)


def observe(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    modules: Iterable[nn.Module],
    callback: Callable[[nn.Module, Tensor, Tensor, Tensor | None], None],
) -> None:
    """Run a model on examples, in eval mode and without gradients.

    Args:
        callback: called with a module that ran, its input, its output, and the mask of real tokens: bool (n, t), None
            for images.
    """
    mask: Tensor | None = None

    def hook(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], outputs: Any) -> None:
        callback(
            module, module_input(args, kwargs), outputs if isinstance(outputs, Tensor) else outputs[0], mask
        )

    hooks = (module.register_forward_hook(hook, with_kwargs=True) for module in modules)
    with evaluating(model), torch.no_grad(), removing_hooks(hooks):
        for batch in batches:
            mask = batch["attention_mask"].bool() if "attention_mask" in batch else None
            model(**batch)


def module_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return a module's input: its first positional argument, `hidden_states`, or its first keyword argument."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))


def token_rows(states: Tensor, mask: Tensor | None) -> Tensor:
    """Flatten states (..., d) to float32 rows (n, d); token states (n, t, d) only where the mask (n, t) is true."""
    masked = mask is not None and states.shape[:-1] == mask.shape
    return (states[mask] if masked else states.flatten(0, -2)).float()


def observe_tokens(
    model: nn.Module,
    batches: Batches,
    modules: Iterable[nn.Module],
    callback: Callable[[nn.Module, Tensor, Tensor], None],
) -> None:
    """Run a model on examples; `callback` gets a module's input and output, one float32 row (d) per real token."""

    def note_rows(module: nn.Module, inputs: Tensor, outputs: Tensor, mask: Tensor | None) -> None:
        callback(module, token_rows(inputs, mask), token_rows(outputs, mask))

    observe(model, batches(), modules, note_rows)
