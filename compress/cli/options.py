"""Arguments and options that several verbs take."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)

SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a value of the profile; repeatable.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
QUIET = click.option("--quiet", is_flag=True, help="Show no progress.")
