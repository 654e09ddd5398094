"""`compress schema`: what a profile may say, for an editor."""

from __future__ import annotations

import json

import click

from compress.core.printing import echo


@click.command()
def schema() -> None:
    """Print the JSON schema of a profile, for an editor."""
    from compress.profile.json_schema import json_schema

    echo(json.dumps(json_schema(), indent=2))
