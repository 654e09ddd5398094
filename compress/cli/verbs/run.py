"""`compress run`: run a profile from its first pass to its bundle."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from compress.cli.options import PATH, QUIET, SET
from compress.core.errors import BudgetMissed, NotJudged


@click.command()
@click.argument("profile", type=PATH)
@SET
@click.option("--allow-code", is_flag=True, help="Allow the Python code that the profile names to run.")
@click.option(
    "--allow-unjudged",
    is_flag=True,
    help="Exit with 0 even if a limit could not be judged, for example on a busy machine.",
)
@QUIET
def run(
    profile: Path, assignments: tuple[str, ...], allow_code: bool, allow_unjudged: bool, quiet: bool
) -> None:
    """Run a profile: its passes with the measurements after each, the report, the bundle."""
    from compress import api
    from compress.cli.outcome import print_run
    from compress.core.terminal.console import Terminal
    from compress.reporting.render.terminal import RowLine

    interruption = Interruption()
    interruption.listen()
    out = Terminal()
    finished = api.run(
        profile,
        assignments,
        allow_code=allow_code,
        quiet=quiet,
        on_row=lambda record, row: out.print(RowLine(record, row)),
        was_interrupted=lambda: interruption.requested,
    )
    assert finished.report is not None
    print_run(out, finished.record, finished.report)
    limits = finished.record.limits
    if finished.status == "budget_missed":
        missed = ", ".join(f"{limit.name} of {limit.step}" for limit in limits if limit.held is False)
        raise BudgetMissed(f"the budget is missed: {missed}", where=str(finished.path))
    if finished.status == "not_judged" and not allow_unjudged:
        unjudged = [limit for limit in limits if limit.held is None]
        reasons = ", ".join(f"{limit.name} of {limit.step} ({limit.reason})" for limit in unjudged)
        raise NotJudged(f"the budget is not judged: {reasons}", where=str(finished.path))


class _Stop(KeyboardInterrupt):
    """Subclass, because CPython kills itself at exit after a plain KeyboardInterrupt has passed through an `exec`."""


class Interruption:
    """Records that the user asked to stop, by Ctrl-C, SIGTERM or closing the terminal."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Install the signal handlers; a signal that the parent process ignored (`nohup`) stays ignored."""
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signal_number) is not signal.SIG_IGN:
                signal.signal(signal_number, self._stop)

    def _stop(self, signal_number: int, frame: FrameType | None) -> None:
        self.requested = True
        raise _Stop
