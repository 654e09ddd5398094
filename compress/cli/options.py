"""Arguments and options shared by several commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click


class _TaskName(click.ParamType[str]):
    """Choice among the tasks, including those of plugins; they are listed lazily, so that other commands need not."""

    name = "task"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return self._choice().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self._choice().get_metavar(param, ctx)

    def _choice(self) -> click.Choice[str]:
        from compress.tasks.table import task_names

        return click.Choice(task_names())


class NonNegative(click.FloatRange):
    """A number, 0 or more; what is none (`nan`) would pass every comparison."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


TASK = _TaskName()
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
