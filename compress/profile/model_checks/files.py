"""What lies in the folder of a model on this machine, read without loading anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.errors import CompressError
from compress.core.package_paths import local_path
from compress.core.reading import read_mapping


def read_json(source: str | None, name: str, base: Path) -> dict[str, Any] | None:
    """A JSON file of a model that lies on this machine; None where there is none that can be read."""
    try:
        folder = None if source is None else local_path(source, base)
    except CompressError:
        # Whatever is wrong with the source itself is reported where it is fetched.
        return None
    return None if folder is None else mapping_in(folder / name)


def mapping_in(file: Path) -> dict[str, Any] | None:
    """The parsed mapping of a file; None where there is none that can be read, which is said where it is loaded."""
    try:
        return read_mapping(file)
    except (CompressError, OSError):
        return None


def model_type(source: str | None, base: Path) -> str | None:
    """The `model_type` in a model's config; None where it is not on this machine, or no model of transformers."""
    config = read_json(source, "config.json", base)
    kind = config.get("model_type") if config is not None else None
    return kind if isinstance(kind, str) else None
