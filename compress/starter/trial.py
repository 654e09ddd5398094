"""Whether a profile that was just made would run: it is examined before it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.core.errors import Fault
from compress.engine.examining import examine_source
from compress.profile.yaml_lines import parse_source


def faults_of_starter(text: str, folder: Path, model: str, data: str) -> list[Fault]:
    """What a run of the profile would end with, told of the model or the data and not of a file that is not there yet.

    Args:
        text: the profile.
        folder: where it will stand.
        model, data: as the user named them.
    """
    made = "the profile"
    found = examine_source(parse_source(text, made, folder))
    return [
        replace(fault, file=data if fault.path.startswith("data") else model, line=None)
        if fault.file == made
        else fault
        for fault in found.faults
    ]
