"""A model run on examples while some of its modules are watched, and moments of rows that come in parts."""

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
"""Starts an iteration over batches of examples, encoded for the model; some hundred examples are enough."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; every module gets its own training flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are removed at the end."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


class MomentSums:
    """The moments of rows that come in parts, in memory that does not grow with them; sums are float64."""

    def __init__(self) -> None:
        self._count = 0
        self._total: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Count further rows (n, d); their products are taken in their own type."""
        self._count += len(rows)
        self._total = self._total + rows.sum(dim=0, dtype=torch.float64).cpu()
        self._square = self._square + (rows.T @ rows).double().cpu()

    def moments(self, nothing: ModelError) -> Moments:
        """The moments of all rows.

        Raises:
            ModelError: `nothing`: there were no rows.
        """
        if not isinstance(self._total, Tensor) or not isinstance(self._square, Tensor):
            raise nothing
        return Moments(self._total / self._count, self._square / self._count)


def observe(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    modules: Iterable[nn.Module],
    note: Callable[[nn.Module, Tensor, Tensor, Tensor | None], None],
) -> None:
    """Run a model on examples, in eval mode and without gradients.

    Args:
        note: gets a module that ran, what it reads, what it gives, and which tokens are real: bool (n, t), None for
            images.
    """
    mask: Tensor | None = None

    def hook(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], gives: Any) -> None:
        note(module, read_by(args, kwargs), gives if isinstance(gives, Tensor) else gives[0], mask)

    hooks = (module.register_forward_hook(hook, with_kwargs=True) for module in modules)
    with evaluating(model), torch.no_grad(), hooked(hooks):
        for batch in batches:
            mask = batch["attention_mask"].bool() if "attention_mask" in batch else None
            model(**batch)


def read_by(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a module reads, of all that it is called with."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))


def token_rows(states: Tensor, mask: Tensor | None) -> Tensor:
    """Of states (..., d) a row each, float32 (n, d); of those of tokens, (n, t, d), the real ones of a mask (n, t)."""
    masked = mask is not None and states.shape[:-1] == mask.shape
    return (states[mask] if masked else states.flatten(0, -2)).float()


def observe_tokens(
    model: nn.Module,
    batches: Batches,
    modules: Iterable[nn.Module],
    note: Callable[[nn.Module, Tensor, Tensor], None],
) -> None:
    """Run a model on examples; `note` gets what a module reads and gives, a row a real token, float32 (tokens, d)."""

    def note_rows(module: nn.Module, reads: Tensor, gives: Tensor, mask: Tensor | None) -> None:
        note(module, token_rows(reads, mask), token_rows(gives, mask))

    observe(model, batches(), modules, note_rows)
