"""`compress init`: write a runnable profile for the user's model and data, or report why that is not possible."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import PATH, TASK
from compress.core.errors import ProfileError, UsageError
from compress.core.terminal.printing import echo


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--out", type=PATH, default=Path("compress.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option(
    "--task",
    type=TASK,
    help="What the model is for; guessed from MODEL and DATA if unset.",
)
def init(model: str, data: str, out: Path, force: bool, task: str | None) -> None:
    """Write a commented profile for MODEL and DATA, derived from their files; fail if no profile would run."""
    from compress.core.disk.files import write_text
    from compress.core.disk.reading import content_errors
    from compress.starter.profile_check import faults_of_starter
    from compress.starter.writing import starter_profile

    if not out.parent.is_dir():
        raise UsageError("there is no such folder", where=str(out.parent), hint="Make it first.")
    if out.is_dir():
        raise UsageError("the profile cannot be written: this is a folder", where=str(out))
    if out.exists() and not force:
        raise UsageError("a file of this name already exists", where=str(out), hint="`--force` replaces it.")
    with content_errors("this model or its data", f"{model} {data}", UsageError):
        text = starter_profile(model, data, out.parent, task)
        faults = faults_of_starter(text, out.parent, model, data)
    if faults:
        raise ProfileError(faults)
    write_text(out, text)
    echo(f"wrote {out}; next: compress validate {out}, compress run {out}")
