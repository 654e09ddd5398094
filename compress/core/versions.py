"""Installed versions of libraries, CPU or GPU build."""

from __future__ import annotations

from importlib import metadata


def installed_version(library: str) -> str | None:
    """Return the version of a library's installed distribution, preferring its `-gpu` build; None if not installed."""
    for name in (f"{library}-gpu", library):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
