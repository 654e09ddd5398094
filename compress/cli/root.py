"""The verbs: parse, call, print, exit code. Imports nothing heavy before a verb runs."""

from __future__ import annotations

import io
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from compress import __version__
from compress.cli.cache import cache
from compress.cli.check import check
from compress.cli.export import export
from compress.cli.init import init
from compress.cli.measure import measure
from compress.cli.validate import validate
from compress.core.errors import BudgetMissed, CompressError, NotJudged, RunInterrupted, UsageError
from compress.core.exhaustion import exhaustion_told
from compress.core.printing import echo

if TYPE_CHECKING:
    from rich.console import Console

    from compress.core.records import RunRecord, StepRecord
    from compress.profile.load import LoadedProfile

PROFILE = click.Path(path_type=Path)
_SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a value of the profile; repeatable.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Verbs(click.Group):
    """The group that turns errors into messages and exit codes; a traceback is shown with `--debug` only."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        # It may stand anywhere: one adds it to the end of a command that has just failed.
        debug = "--debug" in words
        words = [word for word in words if word != "--debug"]
        try:
            _check_here()
            with exhaustion_told(_written_to):
                return super().main(words, *rest, **{**options, "standalone_mode": False})
        except click.exceptions.Exit as stop:
            sys.exit(stop.exit_code)
        except click.ClickException as error:
            _show(error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            echo("interrupted", err=True)
            sys.exit(RunInterrupted.exit_code)
        except CompressError as error:
            if debug:
                echo(traceback.format_exc(), err=True)
            echo(f"error: {error}" if error.exit_code != 2 else str(error), err=True)
            sys.exit(error.exit_code)
        except Exception as error:  # noqa: BLE001 - the last place where an error can become a message
            if debug:
                echo(traceback.format_exc(), err=True)
            echo(
                f"internal error: {type(error).__name__}: {error}\n  `--debug` shows where it comes from.",
                err=True,
            )
            sys.exit(CompressError.exit_code)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="compress")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def main(debug: bool) -> None:
    """Turn a trained model into the smallest, fastest one that still does its job, and prove it with numbers."""


for verb in (init, validate, measure, check, cache, export):
    main.add_command(verb)


@main.command()
@click.argument("profile", type=PROFILE)
@_SET
@click.option("--allow-code", is_flag=True, help="Allow the Python code that the profile names to run.")
@click.option(
    "--allow-unjudged",
    is_flag=True,
    help="Exit with 0 also where a limit could not be judged, as on a machine that others keep busy.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
def run(
    profile: Path, assignments: tuple[str, ...], allow_code: bool, allow_unjudged: bool, quiet: bool
) -> None:
    """Run a profile: its passes, the measuring after each, the report, the bundle."""
    from compress.core.console import Terminal, TerminalProgress
    from compress.core.progress import Silent
    from compress.engine.resolve import resolve_job
    from compress.engine.running import run_job
    from compress.report.render.terminal import table
    from compress.store.cache import Cache

    interruption = _Interruption()
    interruption.listen()
    out = Terminal()
    progress = Silent() if quiet else TerminalProgress(Terminal(stderr=True))
    loaded = _load(profile, assignments)
    job = resolve_job(loaded, allow_code=allow_code)
    for note in (*(f"warning: {one}" for one in loaded.warnings), *job.splits.notes):
        progress.say(note)
    try:
        finished, store = run_job(
            job, Cache.default(), Path.cwd(), progress, _print_row(out), lambda: interruption.asked
        )
    except Exception as error:
        # Where the disk is full there is no space for a report either: the error is told all the same.
        with suppress(OSError):
            _report_failed(error, job.run_id)
        raise
    out.print(table(finished))
    _print_outcome(out, finished, _write_reports(finished))
    if finished.status == "budget_missed":
        missed = ", ".join(
            f"{limit.name} of {limit.step}" for limit in finished.limits if limit.held is False
        )
        raise BudgetMissed(f"the budget is missed: {missed}", where=str(store.path))
    if finished.status == "not_judged" and not allow_unjudged:
        unjudged = [limit for limit in finished.limits if limit.held is None]
        words = ", ".join(f"{limit.name} of {limit.step} ({limit.reason})" for limit in unjudged)
        raise NotJudged(f"the budget is not judged: {words}", where=str(store.path))


@main.command()
@click.argument("profile", type=PROFILE)
@_SET
@_JSON
def plan(profile: Path, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show the steps of a profile, and for each whether it is cached and, if not, why."""
    from compress.engine.planning import explain_plan

    rows = explain_plan(_load(profile, assignments))
    if as_json:
        echo(json.dumps([row.as_dict() for row in rows], indent=2))
        return
    from rich.table import Table

    from compress.core.console import Terminal
    from compress.core.units import format_count

    shown = Table("step", "from", "leaves", "parameters", "state", box=None, header_style="bold")
    for row in rows:
        state = f"{row.state}: {row.reason}" if row.reason else row.state
        shown.add_row(
            row.name,
            ", ".join(row.inputs),
            row.form,
            format_count(row.parameters) if row.parameters else "",
            state,
        )
    Terminal().print(shown)


@main.command()
@click.argument("run_name", metavar="RUN")
@_JSON
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to write the report; reports/<profile>/ if unset."
)
def report(run_name: str, as_json: bool, out: Path | None) -> None:
    """Write the report of a run again (RUN: its id, its folder, or a profile's name)."""
    from compress.core.reading import understood
    from compress.store.runs import RUNS, find_run

    store = find_run(run_name, Path.cwd() / RUNS)
    record = store.load()
    with understood("the records of this run", str(store.path), UsageError):
        _show_report(record, as_json, out)


def _show_report(record: RunRecord, as_json: bool, out: Path | None) -> None:
    from compress.report.data.frame import contract_text

    if as_json:
        echo(contract_text(record), newline=False)
        return
    from compress.core.console import Terminal
    from compress.report.render.terminal import table

    console = Terminal()
    console.print(table(record))
    _print_outcome(console, record, _write_reports(record, out))


@main.command()
@click.argument("run_names", metavar="RUN RUN...", nargs=-1, required=True)
@click.option(
    "--anyway", is_flag=True, help="Compare runs of different targets or test splits, with a warning."
)
def compare(run_names: tuple[str, ...], anyway: bool) -> None:
    """Put runs, measured models and report.json files side by side."""
    from compress.core.console import Terminal
    from compress.core.reading import understood
    from compress.report.compare import compare as side_by_side
    from compress.report.data.report_reader import find_report
    from compress.store.runs import RUNS

    found = [find_report(name, Path.cwd() / RUNS) for name in run_names]
    out = Terminal()
    with understood("one of these reports", " ".join(run_names), UsageError):
        comparison = side_by_side(found, anyway=anyway)
        for warning in comparison.warnings:
            out.print(f"warning: {warning}", style="yellow")
        out.print(comparison.table())


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@_JSON
@click.option("--allow-code", is_flag=True, help="Run the bundle's code also where it is none of ours.")
def verify(bundle: Path, as_json: bool, allow_code: bool) -> None:
    """Check every hash of a bundle and run its golden examples in a clean process."""
    from dataclasses import asdict

    from compress.core.errors import PassError
    from compress.passes.export.verify import verify_bundle

    result = verify_bundle(bundle, allow_code=allow_code)
    if as_json:
        echo(json.dumps({"ok": result.ok, **asdict(result)}, indent=2))
    if not result.ok:
        raise PassError("; ".join(result.problems), where=str(bundle))
    if not as_json:
        models = " and ".join(result.models)
        echo(f"{bundle}: {result.files} hashes right, {result.examples} golden examples right with {models}")
        for note in result.notes:
            echo(f"note: {note}")


@main.command()
@click.argument("profile", type=PROFILE, required=False)
@_SET
@_JSON
def targets(profile: Path | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show what this machine can measure on, or what each target of PROFILE is."""
    from compress.targets.showing import show_machine, show_targets

    if profile is None:
        show_machine(as_json)
    else:
        show_targets(_load(profile, assignments).profile.targets, as_json)


@main.command()
def schema() -> None:
    """Print the JSON schema of a profile, for an editor."""
    from compress.profile.json_schema import json_schema

    echo(json.dumps(json_schema(), indent=2))


def _written_to() -> tuple[Path, ...]:
    """The folders that verbs write to."""
    import tempfile

    from compress.store.cache import Cache

    return Cache.default().root, Path.cwd(), Path(tempfile.gettempdir())


def _load(profile: Path, assignments: tuple[str, ...]) -> LoadedProfile:
    from compress.profile.load import load_profile

    return load_profile(profile, assignments)


def _check_here() -> None:
    """Refuse a working folder that was removed: everything starts from it.

    Raises:
        UsageError: with the code `no-folder`.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the working folder cannot be used: {error.strerror}",
            hint="Change into a folder that is there.",
            code="no-folder",
        ) from error


def _show(error: click.ClickException) -> None:
    """A fault of the command line, with the words of it."""
    shown = io.StringIO()
    error.show(shown)
    echo(shown.getvalue(), err=True, newline=False)


class _Stop(KeyboardInterrupt):
    """A KeyboardInterrupt of our own: CPython kills itself at exit after a plain one passed through an `exec`."""


class _Interruption:
    """Remembers that the user asked to stop, by ctrl-C, SIGTERM, or a terminal that was closed."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take the signals from now on; one that whoever started this had ignored (`nohup`) stays so."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise _Stop


def _print_row(out: Console) -> Callable[[RunRecord, StepRecord], None]:
    from compress.report.render.terminal import row_line

    return lambda run, record: out.print(row_line(run, record))


def _write_reports(run: RunRecord, out: Path | None = None) -> Path:
    from compress.report.render.write import report_folder, write_report

    paths = write_report(run, out or report_folder(run, Path.cwd()))
    for kept in paths.kept:
        echo(f"what stood in place of the report is now {kept}", err=True)
    return paths.html


def _report_failed(error: Exception, run_id: str) -> None:
    """A failed run has a report too: the steps that were done, and the error."""
    from compress.store.runs import RUNS, RunStore

    path = Path.cwd() / RUNS / run_id
    if not isinstance(error, RunInterrupted) and (path / "run.json").is_file():
        record = RunStore(path).load()
        if record.steps:
            _write_reports(record)


def _counted(things: Sequence[object], one: str, several: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else several}"


def _print_outcome(out: Console, run: RunRecord, html: Path) -> None:
    from compress.report.render.terminal import summary_lines

    for line in summary_lines(run):
        out.print(line, soft_wrap=True)
    out.print(f"report  {html}", soft_wrap=True)
