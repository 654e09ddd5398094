"""Faults of data are gathered and told at once: a file with three bad rows is mended in one go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from compress.core.errors import DataError, DataErrors

Result = TypeVar("Result")
_SHOWN = 3
"""Faults of one kind that are shown each; of the others it is told how many there are."""


class Faults:
    """What is wrong with data, in the order in which it was found. As a context it takes the fault that ends it."""

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
        """Keep a fault for later."""
        self._found.append(error)

    def raise_all(self) -> None:
        """Go on where there is no fault.

        Raises:
            DataError: the only one.
            DataErrors: there are several; of one kind, the first few and how many more.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise DataErrors(self._found, _shown(self._found))


def all_of(function: Callable[..., Result], *given: Iterable[Any]) -> list[Result]:
    """What a function makes of each of the given things, as `map` does it.

    Raises:
        DataError: the only fault, or all of them.
    """
    made: list[Result] = []
    faults = Faults()
    for each in zip(*given, strict=True):
        with faults:
            made.append(function(*each))
    faults.raise_all()
    return made


def _shown(found: list[DataError]) -> list[DataError]:
    """The first few faults of each kind, and where the others begin."""
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
