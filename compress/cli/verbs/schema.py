"""`compress schema`: print the JSON schema of profiles."""

from __future__ import annotations

import click

from compress.core.terminal.printing import echo_json


@click.command()
def schema() -> None:
    """Print the JSON schema of a profile, for an editor."""
    from compress.profile.json_schema import json_schema

    echo_json(json_schema())
