"""Rich console and progress bars for the commands; plain lines if the output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from compress.core.terminal.printing import Stream, printable
from compress.core.terminal.progress import Advance
from compress.core.units import format_seconds

_SECONDS_BETWEEN_LINES = 20.0


class Terminal(Console):
    """Console on standard output or error, without markup and with control characters of printed text escaped."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = cast("IO[str]", Stream(err=stderr))
        super().__init__(file=stream, markup=False, emoji=False, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, escaping text; rich's own control sequences are separate segments and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class TerminalProgress:
    """Progress bars with the remaining time, on stderr; the report's rows go to stdout."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps."""
        if self.console.is_terminal:
            with self._rich_bar(title, total) as advance:
                yield advance
        else:
            yield self._plain_bar(title, total)

    def say(self, message: str) -> None:
        """Print one line."""
        self.console.print(message, style="dim", soft_wrap=True)

    @contextmanager
    def _rich_bar(self, title: str, total: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, note="")

            def advance(steps: int = 1, note: str | None = None) -> None:
                if note is None:
                    progress.advance(task, steps)
                else:
                    progress.update(task, advance=steps, note=note)

            yield advance

    def _plain_bar(self, title: str, total: int) -> Advance:
        started = time.monotonic()
        done, last_printed = 0, started

        def advance(steps: int = 1, note: str | None = None) -> None:
            nonlocal done, last_printed
            done += steps
            now = time.monotonic()
            if now - last_printed < _SECONDS_BETWEEN_LINES or done >= total:
                return
            last_printed = now
            remaining = (now - started) / max(done, 1) * (total - done)
            self.say(
                f"{title}: {done}/{total}, {format_seconds(remaining)} left{f', {note}' if note else ''}"
            )

        return advance
