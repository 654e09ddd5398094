"""Which version of a library is installed, in whatever build."""

from __future__ import annotations

from importlib import metadata


def installed_version(library: str) -> str | None:
    """The version of the distribution that holds a library: its own, or its GPU build's; None where there is none."""
    for name in (f"{library}-gpu", library):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
