"""`compress plugins`: list the plugins of installed distributions."""

from __future__ import annotations

from dataclasses import asdict

import click

from compress.cli.options import JSON
from compress.core.terminal.printing import echo, echo_json

GROUPS = ("compress.tasks", "compress.passes", "compress.losses")


@click.command()
@JSON
def plugins(as_json: bool) -> None:
    """List the tasks, passes and losses that installed distributions add, without importing them."""
    from compress.core.plugins import plugins as added

    installed = [plugin for group in GROUPS for plugin in added(group)]
    if as_json:
        echo_json([asdict(plugin) for plugin in installed])
        return
    if not installed:
        echo("no installed distribution adds a task, a pass or a loss")
        return
    from rich.table import Table

    from compress.core.terminal.console import Terminal

    table = Table("kind", "name", "distribution", "version", "what", box=None, header_style="bold")
    for plugin in installed:
        kind = plugin.group.removeprefix("compress.")
        table.add_row(kind, plugin.name, plugin.distribution, plugin.version, plugin.target)
    Terminal().print(table)
