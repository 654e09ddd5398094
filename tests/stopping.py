"""A step that is stopped in the middle of what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compress.core.terminal.progress import Advance, SilentProgress


class Killing(SilentProgress):
    """Ends the process, as it were, once so many answers are there."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """A bar that is not shown."""

        def advance(steps: int = 1, note: str | None = None) -> None:
            self.left -= steps
            if self.left < 0:
                raise KeyboardInterrupt

        yield advance
