"""What is wrong with a model, whoever finds it."""

from __future__ import annotations

from dataclasses import dataclass

from compress.profile.yaml_lines import Path_


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do, as one sentence, and its code."""

    message: str
    code: str


Placed = tuple[Path_, Problem]
"""A problem of a model, and the key of the profile that names the model."""
