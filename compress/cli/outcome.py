"""Output of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.terminal.printing import echo

if TYPE_CHECKING:
    from rich.console import Console

    from compress.core.records import RunRecord
    from compress.reporting.render.write import ReportPaths


def print_run(out: Console, run: RunRecord, report: ReportPaths) -> None:
    """Print the table of rows, the verdicts, and the path of the report."""
    from compress.reporting.render.terminal import RunTable, summary_lines

    out.print(RunTable(run))
    for moved in report.kept:
        echo(f"moved what was in the report's place to {moved}", err=True)
    for line in summary_lines(run):
        out.print(line, soft_wrap=True)
    out.print(f"report  {report.html}", soft_wrap=True)
