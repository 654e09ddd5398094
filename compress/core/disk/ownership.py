"""Tracking of the files that this package wrote into a folder, so that no others are replaced or removed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from os.path import lexists
from pathlib import Path

from compress.core.disk.files import move, sha256_file, write_json
from compress.core.disk.reading import read_mapping
from compress.core.disk.safe_paths import name_fault
from compress.core.errors import CompressError, UsageError

MARKER = ".compress.json"
"""Marker file of a folder with the kind of the written content and the sha256 of each file."""


def write_marker(folder: Path, kind: str, names: Iterable[str] | None = None) -> None:
    """Record the current files of a folder, all or those in `names`, as written by this package."""
    listed = _list_files(folder) if names is None else names
    hashes = {name: sha256_file(folder / name) for name in listed if name != MARKER}
    write_json(folder / MARKER, {"made_by": "compress", "kind": kind, "files": hashes})


def foreign_files(folder: Path, kind: str, names: Iterable[str] | None = None) -> list[str]:
    """Return the sorted names of files in a folder, all or those in `names` that exist, that this package did not write
    as part of `kind` or that were changed since."""
    recorded = _recorded_hashes(folder, kind)
    candidates = _list_files(folder) if names is None else [name for name in names if lexists(folder / name)]
    return sorted(name for name in candidates if name != MARKER and not _is_unchanged(folder, name, recorded))


def move_foreign(folder: Path, kind: str, names: Iterable[str]) -> list[Path]:
    """Rename foreign files whose names are about to be written; return the new paths."""
    moved = []
    for name in foreign_files(folder, kind, names):
        moved.append(unused_name(folder / name))
        move(folder / name, moved[-1])
    return moved


def unused_name(path: Path) -> Path:
    """Return an unused name beside a file or folder: `report.kept-1.html`."""
    names = (path.with_name(f"{path.stem}.kept-{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not lexists(name))


def _recorded_hashes(folder: Path, kind: str) -> dict[str, object]:
    try:
        body = read_mapping(folder / MARKER, error=UsageError)
    except (OSError, CompressError):
        return {}
    files = body.get("files")
    return files if body.get("kind") == kind and isinstance(files, dict) else {}


def _is_unchanged(folder: Path, name: str, recorded: dict[str, object]) -> bool:
    file = folder / name
    if name not in recorded or name_fault(name) is not None or file.is_symlink() or not file.is_file():
        return False
    return sha256_file(file) == recorded[name]


def _list_files(folder: Path) -> list[str]:
    """Return all non-folders below a folder, recursively; links are not followed."""
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()
    )
