"""The command group, which turns errors into messages and exit codes. Heavy imports are left to the commands."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from compress import __version__
from compress.cli.verbs.cache import cache
from compress.cli.verbs.check import check
from compress.cli.verbs.compare import compare
from compress.cli.verbs.export import export
from compress.cli.verbs.init import init
from compress.cli.verbs.measure import measure
from compress.cli.verbs.plan import plan
from compress.cli.verbs.plugins import plugins
from compress.cli.verbs.report import report
from compress.cli.verbs.run import run
from compress.cli.verbs.schema import schema
from compress.cli.verbs.targets import targets
from compress.cli.verbs.validate import validate
from compress.cli.verbs.verify import verify
from compress.core.disk.exhaustion import resource_errors
from compress.core.errors import CompressError, RunInterrupted, UsageError
from compress.core.terminal.printing import echo


class _CommandGroup(click.Group):
    """Command group that turns errors into messages and exit codes, with a traceback only if `--debug` is given."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        # Accepted anywhere, since users append it to a command that has just failed.
        debug = "--debug" in arguments
        arguments = [argument for argument in arguments if argument != "--debug"]
        try:
            _check_working_folder()
            with resource_errors(_writable_folders):
                return super().main(arguments, *rest, **{**options, "standalone_mode": False})
        except click.exceptions.Exit as exited:
            sys.exit(exited.exit_code)
        except click.ClickException as error:
            _print_usage_error(error)
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
                f"internal error: {type(error).__name__}: {error}\n  `--debug` shows the traceback.",
                err=True,
            )
            sys.exit(CompressError.exit_code)


@click.group(cls=_CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="compress")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def main(debug: bool) -> None:
    """Turn a trained model into the smallest, fastest one that still does its job, and prove it with numbers."""


for verb in (
    init,
    validate,
    run,
    measure,
    plan,
    report,
    compare,
    check,
    verify,
    targets,
    plugins,
    cache,
    export,
    schema,
):
    main.add_command(verb)


def _writable_folders() -> tuple[Path, ...]:
    """Return the folders that commands write to."""
    import tempfile

    from compress.store.cache import Cache

    return Cache.default().root, Path.cwd(), Path(tempfile.gettempdir())


def _check_working_folder() -> None:
    """Check that the working folder still exists, since relative paths depend on it.

    Raises:
        UsageError: with the code `no-folder`.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used: {error.strerror}",
            hint="Change into an existing folder.",
            code="no-folder",
        ) from error


def _print_usage_error(error: click.ClickException) -> None:
    """Print a usage error as click formats it."""
    buffer = io.StringIO()
    error.show(buffer)
    echo(buffer.getvalue(), err=True, newline=False)
