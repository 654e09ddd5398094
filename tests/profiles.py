"""Profiles of a text classifier, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def write_profile(file: Path, **sections: Any) -> Path:
    """Write a profile to `file`, whose sections are the usual ones unless given; the file."""
    body = {
        "name": "job",
        "task": "text-classification",
        "data": {"path": "data.csv"},
        "teacher": {"model": "owner/model"},
        "passes": [{"export": {}}],
        **sections,
    }
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return file
