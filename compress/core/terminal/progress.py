"""Interface for reporting progress, independent of where it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Advances one bar by `steps`; `note` replaces the text beside it (a loss, a score)."""

    def __call__(self, steps: int = 1, note: str | None = None) -> None:
        """Advance the bar."""


class Progress(Protocol):
    """Receiver of progress and one-line messages."""

    def bar(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Return a context that shows a bar with the remaining time and yields the function that advances it."""

    def say(self, message: str) -> None:
        """Show one line."""


class SilentProgress:
    """Progress that shows nothing, for tests and quiet commands."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Return a bar that is not shown."""

        def advance(steps: int = 1, note: str | None = None) -> None:
            return None

        yield advance

    def say(self, message: str) -> None:
        """Ignore the message."""
