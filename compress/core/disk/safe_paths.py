"""Path traversal checks for file names read from files, archives, devices or records."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from compress.core.errors import CompressError, ModelError

_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_NAME_BYTES = 255
"""Maximum bytes of one path component on common file systems."""
_MAX_PATH_BYTES = 2048


def path_inside(
    folder: Path,
    name: object,
    *,
    where: str,
    error: type[CompressError] = ModelError,
) -> Path:
    """Return the path of an untrusted `name` inside `folder`; it need not exist.

    Args:
        folder: the folder that the path must stay in.
        name: relative path with `/` as separator.
        where: source of the name (the file that it was read from, the device), for the error.
        error: class of the error.

    Raises:
        error: with the code `outside-folder`, if the name is invalid or leads out of the folder: an absolute path,
            `..`, a drive letter, a backslash, a null byte, an empty name, a symbolic link that points out of it.
    """
    fault = name_fault(name)
    if fault is None:
        path = folder.joinpath(*_parts(str(name)))
        fault = _link_fault(folder, path)
        if fault is None:
            return path
    raise error(f"{_quoted(name)} {fault}", where=where, code="outside-folder")


def name_fault(name: object) -> str | None:
    """Return why a name is not a valid path inside a folder, as the end of a sentence; None if it is valid."""
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
    if max(lengths) > _MAX_NAME_BYTES or sum(lengths) + len(lengths) > _MAX_PATH_BYTES:
        return "is too long for a file name"
    return None


def _parts(name: str) -> tuple[str, ...]:
    """Return the components of a name, without `.`."""
    return PurePosixPath(name).parts


def _link_fault(folder: Path, path: Path) -> str | None:
    """Return why the resolved path is not inside the folder; None if it is inside or does not exist."""
    try:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in _allowed_roots(folder)):
            return "is a link that leads out of the folder"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _allowed_roots(folder: Path) -> tuple[Path, ...]:
    """Return where links of a folder may point: into itself and, for a snapshot in the hub cache, into its blobs."""
    real = Path(os.path.realpath(folder))
    snapshots = next((parent for parent in (real, *real.parents) if parent.parent.name == "snapshots"), None)
    return (real,) if snapshots is None else (real, snapshots.parent.parent / "blobs")


def _quoted(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
