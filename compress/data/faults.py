"""Collects faults in data and reports them together, so that a file with three bad rows can be fixed in one go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from compress.core.errors import DataError, DataErrors

Result = TypeVar("Result")
_SHOWN = 3
"""Faults of one kind that are shown individually; the others are only counted."""


class Faults:
    """Faults of data, in the order found. As a context manager it collects the DataError that ends the block."""

    def __init__(self) -> None:
        self._found: list[DataError] = []

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, DataErrors):
            self._found.extend(error.faults)
        elif isinstance(error, DataError):
            self._found.append(error)
        return isinstance(error, DataError)

    def add(self, error: DataError) -> None:
        """Record a fault to be raised later."""
        self._found.append(error)

    def raise_all(self) -> None:
        """Raise the recorded faults, if any.

        Raises:
            DataError: the only one.
            DataErrors: several; of each kind, the first few and the number of the others.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise DataErrors(self._found, _shown(self._found))


def map_all(function: Callable[..., Result], *given: Iterable[Any]) -> list[Result]:
    """Return `list(map(function, *given))`, continuing after faults to find all of them.

    Raises:
        DataError: the only fault, or all of them (`DataErrors`).
    """
    made: list[Result] = []
    faults = Faults()
    for each in zip(*given, strict=True):
        with faults:
            made.append(function(*each))
    faults.raise_all()
    return made


def _shown(found: list[DataError]) -> list[DataError]:
    """Return the first few faults of each kind, and one that counts the others, located at the first of them."""
    kinds: dict[str, list[DataError]] = defaultdict(list)
    for error in found:
        kinds[error.code or error.message].append(error)
    shown = []
    for errors in kinds.values():
        shown += errors[:_SHOWN]
        if len(errors) > _SHOWN:
            first = errors[_SHOWN]
            of = "" if first.code else f" [{first.message}]"
            shown.append(
                DataError(f"and {len(errors) - _SHOWN} more{of}", where=first.where, code=first.code)
            )
    return shown
