"""`compress compare`: show runs side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_names", metavar="RUN RUN...", nargs=-1, required=True)
@click.option(
    "--anyway", is_flag=True, help="Compare runs of different targets or test splits, with a warning."
)
def compare(run_names: tuple[str, ...], anyway: bool) -> None:
    """Put runs, measured models and report.json files side by side."""
    from compress.core.disk.reading import content_errors
    from compress.core.errors import UsageError
    from compress.core.terminal.console import Terminal
    from compress.reporting.compare import compare as side_by_side
    from compress.reporting.data.report_reader import find_report
    from compress.store.runs import RUNS

    reports = [find_report(name, Path.cwd() / RUNS) for name in run_names]
    out = Terminal()
    with content_errors("one of these reports", " ".join(run_names), UsageError):
        comparison = side_by_side(reports, anyway=anyway)
        for warning in comparison.warnings:
            out.print(f"warning: {warning}", style="yellow")
        out.print(comparison.table())
