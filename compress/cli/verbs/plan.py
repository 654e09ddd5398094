"""`compress plan`: show the steps of a profile without running them."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import JSON, PATH, SET
from compress.core.terminal.printing import echo_json


@click.command()
@click.argument("profile", type=PATH)
@SET
@JSON
def plan(profile: Path, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show the steps of a profile, and for each whether it is cached and, if not, why."""
    from compress import api

    rows = api.plan(profile, assignments)
    if as_json:
        echo_json([row.as_dict() for row in rows])
        return
    from rich.table import Table

    from compress.core.terminal.console import Terminal
    from compress.core.units import format_count

    table = Table("step", "from", "leaves", "parameters", "state", box=None, header_style="bold")
    for row in rows:
        state = f"{row.state}: {row.reason}" if row.reason else row.state
        table.add_row(
            row.name,
            ", ".join(row.inputs),
            row.form,
            format_count(row.parameters) if row.parameters else "",
            state,
        )
    Terminal().print(table)
