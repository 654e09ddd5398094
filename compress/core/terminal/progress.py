"""Progress for whatever takes more than a second; passes report to it without knowing where it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Moves one bar on by `steps`; `note` replaces the text beside it (a loss, a score)."""

    def __call__(self, steps: int = 1, note: str | None = None) -> None:
        """Move on."""


class Progress(Protocol):
    """Where progress and one-line messages go."""

    def bar(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """A context that shows a bar with the time left and gives the function that moves it on."""

    def say(self, message: str) -> None:
        """Show one line."""


class Silent:
    """Shows nothing: for tests and for quiet commands."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """A bar that is not shown."""

        def advance(steps: int = 1, note: str | None = None) -> None:
            return None

        yield advance

    def say(self, message: str) -> None:
        """Say nothing."""
