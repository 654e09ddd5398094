"""Collects faults in data and reports them together, so that a file with three bad rows can be fixed in one go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from compress.core.errors import DataError, DataErrors

Result = TypeVar("Result")
_MAX_SHOWN = 3
"""Faults of one kind that are shown individually; the others are only counted."""


class Faults:
    """Faults of data, in the order found. As a context manager it collects the DataError that ends the block."""

    def __init__(self) -> None:
        self._errors: list[DataError] = []

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, DataErrors):
            self._errors.extend(error.faults)
        elif isinstance(error, DataError):
            self._errors.append(error)
        return isinstance(error, DataError)

    def add(self, error: DataError) -> None:
        """Record a fault to be raised later."""
        self._errors.append(error)

    def raise_all(self) -> None:
        """Raise the recorded faults, if any.

        Raises:
            DataError: the only one.
            DataErrors: several; of each kind, the first few and the number of the others.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise DataErrors(self._errors, _summarized(self._errors))


def map_all(function: Callable[..., Result], *iterables: Iterable[Any]) -> list[Result]:
    """Return `list(map(function, *iterables))`, continuing after faults to find all of them.

    Raises:
        DataError: the only fault, or all of them (`DataErrors`).
    """
    results: list[Result] = []
    faults = Faults()
    for args in zip(*iterables, strict=True):
        with faults:
            results.append(function(*args))
    faults.raise_all()
    return results


def _summarized(faults: list[DataError]) -> list[DataError]:
    """Return the first few faults of each kind, and one that counts the others, located at the first of them."""
    by_kind: dict[str, list[DataError]] = defaultdict(list)
    for error in faults:
        by_kind[error.code or error.message].append(error)
    summary = []
    for errors in by_kind.values():
        summary += errors[:_MAX_SHOWN]
        if len(errors) > _MAX_SHOWN:
            first = errors[_MAX_SHOWN]
            suffix = "" if first.code else f" [{first.message}]"
            summary.append(
                DataError(f"and {len(errors) - _MAX_SHOWN} more{suffix}", where=first.where, code=first.code)
            )
    return summary
