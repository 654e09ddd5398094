"""The operations of a forward pass by name and number: sums, activations and joins that no module makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

OnMade = Callable[["Operation", Tensor], Tensor]
"""An operation and the tensor that it made -> what the model goes on with."""


class Operation(NamedTuple):
    """The `number`-th call of a torch function in a forward pass, from 0."""

    name: str
    number: int


class Watched(TorchFunctionMode):
    """While it stands open, every tensor that an operation makes passes through a function."""

    def __init__(self, on_made: OnMade) -> None:
        super().__init__()
        self.on_made = on_made
        self.calls: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """As torch calls it, once for each function that the model calls."""
        made = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        operation = Operation(name, self.calls[name])
        self.calls[name] += 1
        return self.on_made(operation, made) if isinstance(made, Tensor) else made


@contextmanager
def unwatched() -> Iterator[None]:
    """What is done here is no operation of the model."""
    with torch._C.DisableTorchFunction():
        yield
