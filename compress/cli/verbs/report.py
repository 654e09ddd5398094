"""`compress report`: write the report of a run again."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import JSON, PATH
from compress.core.terminal.printing import echo


@click.command()
@click.argument("run_name", metavar="RUN")
@JSON
@click.option("--out", type=PATH, help="Where to write the report; reports/<profile>/ if unset.")
def report(run_name: str, as_json: bool, out: Path | None) -> None:
    """Write the report of a run again (RUN: its id, its folder, or a profile's name)."""
    from compress import api
    from compress.core.disk.reading import content_errors
    from compress.core.errors import UsageError

    if as_json and out is not None:
        raise UsageError("--json prints the report and --out writes it: give one of them")
    run = api.load_run(run_name)
    with content_errors("the records of this run", str(run.path), UsageError):
        if as_json:
            from compress.reporting.data.frame import contract_text

            echo(contract_text(run.record), newline=False)
            return
        from compress.cli.outcome import print_run
        from compress.core.terminal.console import Terminal

        print_run(Terminal(), run.record, api.report(run, out))
