"""`compress targets`: describe the machines to measure on."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import JSON, PATH, SET


@click.command()
@click.argument("profile", type=PATH, required=False)
@SET
@JSON
def targets(profile: Path | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Describe what this machine can measure on, or each target of PROFILE."""
    from compress.targets.showing import show_machine, show_targets

    if profile is None:
        show_machine(as_json)
        return
    from compress import api

    show_targets(api.load_profile(profile, assignments).profile.targets, as_json)
