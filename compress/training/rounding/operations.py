"""The torch operations of a forward pass by name and call index: sums, activations, concatenations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

OnResult = Callable[["Operation", Tensor], Tensor]
"""An operation and its result tensor -> the tensor that the model continues with."""


class Operation(NamedTuple):
    """The `call_index`-th call of a torch function in a forward pass, counted from 0."""

    name: str
    call_index: int


class InterceptedOperations(TorchFunctionMode):
    """Mode in which the result tensor of every torch operation passes through a function."""

    def __init__(self, on_result: OnResult) -> None:
        super().__init__()
        self.on_result = on_result
        self.calls: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Intercept every torch function that the model calls."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        operation = Operation(name, self.calls[name])
        self.calls[name] += 1
        return self.on_result(operation, result) if isinstance(result, Tensor) else result


@contextmanager
def not_intercepted() -> Iterator[None]:
    """Exclude the operations inside the context from `InterceptedOperations`."""
    with torch._C.DisableTorchFunction():
        yield
