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

    result = api.validate(profile, assignments)
    parsed = result.profile
    if result.faults or parsed is None:
        raise ProfileError(result.faults)
    scope = ", as far as this machine can check" if result.unchecked else ""
    passes, targets = (
        _pluralize(parsed.passes, "pass", "passes"),
        _pluralize(parsed.targets, "target", "targets"),
    )
    echo(f"{profile}: valid{scope}; {passes}, {targets}")
    for line in (*result.checked, *result.notes):
        echo(line)
    for name in dict.fromkeys(result.unchecked):
        echo(f"not checked: {name}")


def _pluralize(items: Sequence[object], singular: str, plural: str) -> str:
    return f"{len(items)} {singular if len(items) == 1 else plural}"
