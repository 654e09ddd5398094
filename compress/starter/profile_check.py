"""Validate a generated profile before it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.core.errors import Fault
from compress.engine.examining import examine_source
from compress.profile.yaml_lines import parse_source


def faults_of_starter(text: str, folder: Path, model: str, data: str) -> list[Fault]:
    """Return the faults of the profile, attributed to the model or the data because the file does not exist yet.

    Args:
        text: the profile.
        folder: the folder that the profile will be in.
        model, data: as the user named them.
    """
    name = "the profile"
    examined = examine_source(parse_source(text, name, folder))
    return [
        replace(fault, file=data if fault.path.startswith("data") else model, line=None)
        if fault.file == name
        else fault
        for fault in examined.faults
    ]
