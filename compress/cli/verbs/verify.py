"""`compress verify`: check a bundle against its manifest."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import JSON, PATH
from compress.core.terminal.printing import echo, echo_json


@click.command()
@click.argument("bundle", type=PATH)
@JSON
@click.option("--allow-code", is_flag=True, help="Run the bundle's code even if it is not compress's own.")
def verify(bundle: Path, as_json: bool, allow_code: bool) -> None:
    """Check every hash of a bundle and run its golden examples in a clean process."""
    from dataclasses import asdict

    from compress import api
    from compress.core.errors import PassError

    result = api.verify(bundle, allow_code=allow_code)
    if as_json:
        echo_json({"ok": result.ok, **asdict(result)})
    if not result.ok:
        raise PassError("; ".join(result.problems), where=str(bundle))
    if not as_json:
        models = " and ".join(result.models)
        echo(f"{bundle}: {result.files} hashes match, {result.examples} golden examples match with {models}")
        for note in result.notes:
            echo(f"note: {note}")
