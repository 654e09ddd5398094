"""A name inside a folder: what a file, an archive, a device or a record names never leads out of where it belongs."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from compress.core.errors import CompressError, ModelError

_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_NAME = 255
"""Bytes of one part of a path, which is what file systems take."""
_LONGEST_PATH = 2048


def inside(
    folder: Path,
    name: object,
    *,
    where: str,
    error: type[CompressError] = ModelError,
) -> Path:
    """The path that `name`, which somebody else wrote, stands for below `folder`; it need not exist.

    Args:
        folder: where the name belongs.
        name: parts with `/` between them.
        where: who names it (the file that it was read from, the device), for the error.
        error: the kind of the error.

    Raises:
        error: with the code `outside-folder`, where the name is none or leads out of the folder: an absolute path,
            `..`, a drive letter, a backslash, a zero byte, an empty name, a symbolic link that points out of it.
    """
    fault = name_fault(name)
    if fault is None:
        path = folder.joinpath(*_parts(str(name)))
        fault = _link_fault(folder, path)
        if fault is None:
            return path
    raise error(f"{_shown(name)} {fault}", where=where, code="outside-folder")


def name_fault(name: object) -> str | None:
    """Why a name can stand for nothing inside any folder, as the end of a sentence; None where it can."""
    if not isinstance(name, str):
        return "is not a file name"
    if not _parts(name):
        return "names no file"
    if "\0" in name or "\\" in name:
        return "contains a null byte or a backslash, which is not allowed here"
    if name.startswith("/") or _DRIVE.match(name):
        return "is an absolute path, expected a name inside the folder"
    if ".." in _parts(name):
        return "leads out of the folder"
    try:
        lengths = [len(os.fsencode(part)) for part in _parts(name)]
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if max(lengths) > _LONGEST_NAME or sum(lengths) + len(lengths) > _LONGEST_PATH:
        return "is too long for a file name"
    return None


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a name, without the `.` that says nothing."""
    return PurePosixPath(name).parts


def _link_fault(folder: Path, path: Path) -> str | None:
    """Why what stands at a path is not inside the folder, links followed; None where it is, or nothing stands there."""
    try:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in _roots(folder)):
            return "is a link that leads out of the folder"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _roots(folder: Path) -> tuple[Path, ...]:
    """Where links of a folder may lead: into itself; and those of a snapshot in the cache of the hub into its blobs."""
    real = Path(os.path.realpath(folder))
    snapshots = next((parent for parent in (real, *real.parents) if parent.parent.name == "snapshots"), None)
    return (real,) if snapshots is None else (real, snapshots.parent.parent / "blobs")


def _shown(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
