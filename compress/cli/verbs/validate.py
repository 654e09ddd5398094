"""`compress validate`: report all faults of a profile, its data and its models that can be found on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from compress.cli.options import PATH, SET
from compress.core.terminal.printing import echo


@click.command()
@click.argument("profile", type=PATH)
@SET
def validate(profile: Path, assignments: tuple[str, ...]) -> None:
    """Check a profile and every source it names that is on this machine; nothing is downloaded."""
    from compress import api
    from compress.core.errors import ProfileError

    found = api.validate(profile, assignments)
    checked = found.profile
    if found.faults or checked is None:
        raise ProfileError(found.faults)
    of = ", as far as this machine can check" if found.unseen else ""
    passes, targets = (
        _counted(checked.passes, "pass", "passes"),
        _counted(checked.targets, "target", "targets"),
    )
    echo(f"{profile}: valid{of}; {passes}, {targets}")
    for line in (*found.seen, *found.notes):
        echo(line)
    for name in dict.fromkeys(found.unseen):
        echo(f"not checked: {name}")


def _counted(things: Sequence[object], one: str, several: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else several}"
