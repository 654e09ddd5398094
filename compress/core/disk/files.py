"""Durable writes, renames and removals: data is written, fsynced and renamed, then the folder is fsynced.

A name never refers to a partial file or folder: content gets a hidden temporary name until all of it is on the disk, so
neither a kill nor a power failure leaves an incomplete file under its final name. Only functions of `os` are called
here, so that tests can make any single call fail or record the order of calls.

Files that are read back have a checksum: `write_sealed` and `read_sealed` for JSON, `sha256_file` for everything else.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.core.units import MIB

_CHECKSUM = "sha256"
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp(\.[^.]*)?", re.DOTALL)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_TYPE_MISMATCH = (errno.ENOTDIR, errno.EISDIR)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Errors of file systems that cannot fsync a folder; these order renames themselves."""


class DamagedFileError(ValueError):
    """The content of a file is not what was written."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files that belong together; all are on the disk under temporary names before the first is renamed."""
    temporary = {path: _temporary_path(path) for path in texts}
    try:
        for path, text in texts.items():
            _write_file(temporary[path], text.encode("utf-8", "backslashreplace"))
        for path, written_path in temporary.items():
            move(written_path, path)
    finally:
        for written_path in temporary.values():
            discard(written_path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file with stable key order."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_sealed(path: Path, body: Mapping[str, object]) -> str:
    """Write a JSON object with the checksum of its content under the key `sha256`; return the checksum."""
    checksum = checksum_of(body)
    write_json(path, {**body, _CHECKSUM: checksum})
    return checksum


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        _write_file(temporary, content)


def allocate(path: Path, size: int) -> None:
    """Create a file of `size` zero bytes, to be filled in place; an existing file is overwritten."""
    with _open_descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.ftruncate(descriptor, size)


@contextmanager
def appending(path: Path, size: int) -> Iterator[Callable[[bytes], None]]:
    """Truncate a file to its first `size` bytes and yield a function that appends to it durably.

    Unlike all other writes this is not atomic: readers must recognize a truncated last piece.
    """
    with _open_descriptor(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, 0, os.SEEK_END)
        os.fsync(descriptor)
        _fsync(path.parent)

        def add(content: bytes) -> None:
            _write(descriptor, content, path)
            os.fsync(descriptor)

        yield add


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, with its suffix, for a library to write to; then sync and rename it."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        move(temporary, path)
    finally:
        discard(temporary)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file atomically."""
    with replacing(target) as temporary:
        _copy(source, temporary)


def copy_tree(source: Path, target: Path, *, exclude: Collection[str] = ()) -> None:
    """Copy a folder atomically, except files and folders with the names `exclude`, replacing `target`.

    If two processes do this at the same time, both copies are complete and the last one stays.
    """
    temporary = _temporary_path(target)
    try:
        _copy_tree(source, temporary, exclude)
        publish(temporary, target)
    finally:
        discard(temporary)


def publish(source: Path, target: Path) -> None:
    """Sync a finished file or folder with its content and move it to `target`, replacing what is there.

    Raises:
        OSError: the move failed; the source stays.
    """
    _fsync_tree(source)
    while True:
        try:
            move(source, target)
            return
        except OSError as error:
            # A folder cannot replace a non-empty folder, nor a file a folder. Each further iteration means that
            # another process has published here in the meantime.
            if error.errno not in _NOT_EMPTY and not (
                error.errno in _TYPE_MISMATCH and os.path.lexists(target)
            ):
                raise
        remove(target)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder on the same disk, replacing a file of that name."""
    os.replace(source, target)
    _fsync(target.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; existing ones are accepted.

    Raises:
        OSError: the folder cannot be created, or its name is taken by something else.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    _fsync(path.parent)


def make_empty_folder(path: Path) -> None:
    """Create an empty folder, removing what exists at `path`."""
    remove(path)
    make_folder(path)


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists. It is renamed to a temporary name before any of its content is removed.

    Raises:
        OSError: it cannot be removed.
    """
    if not os.path.lexists(path):
        return
    doomed = path
    if not is_temporary(path):
        # No other process uses the random name, so the type cannot change between the check and the removal.
        doomed = _temporary_path(path)
        if not _call_tolerating(FileNotFoundError, os.rename, path, doomed):
            return
        _fsync(path.parent)
    if doomed.is_dir() and not doomed.is_symlink():
        _remove_tree(doomed)
    else:
        _call_tolerating(FileNotFoundError, os.unlink, doomed)


def discard(path: Path) -> None:
    """Remove a file or folder, ignoring errors; leftovers under a temporary name are never mistaken for results."""
    try:
        remove(path)
    except OSError:
        return


def is_temporary(path: Path) -> bool:
    """Whether a path has a temporary name, used during creation and removal and left behind by a kill."""
    return _TEMPORARY.fullmatch(path.name) is not None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file."""
    return b"".join(_read_chunks(path))


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        OSError: it cannot be read.
        DamagedFileError: it is not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a file that `write_sealed` wrote.

    Raises:
        OSError: it cannot be read.
        DamagedFileError: its content does not match its checksum.
    """
    body = read_json(path)
    try:
        intact = isinstance(body, dict) and body.pop(_CHECKSUM, None) == checksum_of(body)
    except RecursionError:
        intact = False
    if not intact:
        raise DamagedFileError(f"{path} is damaged: its content does not match its checksum")
    content: dict[str, Any] = body
    return content


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    for chunk in _read_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def file_entry(path: Path) -> dict[str, Any]:
    """Return the entry of a file for `first_damaged`: its sha256 and size in bytes."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def first_damaged(
    folder: Path, entries: Mapping[str, Mapping[str, Any]], *, verify_hashes: bool = True
) -> Path | None:
    """Return the first listed file that is missing or changed; None if all are intact.

    Args:
        entries: results of `file_entry` by file name in the folder.
        verify_hashes: read every file and compare hashes; else only sizes are compared.
    """
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return file
        if verify_hashes and sha256_file(file) != entry["sha256"]:
            return file
    return None


def digest_of(value: object) -> str:
    """Return the sha256 of a JSON value, equal for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checksum_of(body: Mapping[str, object]) -> str:
    """Return the sha256 of the content of a JSON object, independent of formatting and key order."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _write_file(path: Path, content: bytes) -> None:
    with _open_descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        _write(descriptor, content, path)
        os.fsync(descriptor)


def _copy(source: Path, target: Path) -> None:
    with _open_descriptor(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        for chunk in _read_chunks(source):
            _write(descriptor, chunk, target)
        os.fsync(descriptor)


def _copy_tree(source: Path, target: Path, exclude: Collection[str]) -> None:
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name in exclude:
                continue
            if entry.is_dir():
                _copy_tree(Path(entry), target / entry.name, exclude)
            else:
                _copy(Path(entry), target / entry.name)


def _write(descriptor: int, content: bytes, path: Path) -> None:
    remaining = memoryview(content)
    try:
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
    except OSError as error:
        # A failed write does not name its file, which is needed to report which disk is full.
        error.filename = error.filename or str(path)
        raise


def _read_chunks(path: Path) -> Iterator[bytes]:
    # Opening a named pipe without a writer would block forever.
    with _open_descriptor(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)) as descriptor:
        while chunk := os.read(descriptor, MIB):
            yield chunk


@contextmanager
def _open_descriptor(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> None:
    """Fsync a file or a folder."""
    with _open_descriptor(path, os.O_RDONLY) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                error.filename = error.filename or str(path)
                raise


def _fsync_tree(path: Path) -> None:
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                _fsync_tree(Path(entry))
    _fsync(path)


def _remove_tree(path: Path) -> None:
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(Path(entry))
            else:
                _call_tolerating(FileNotFoundError, os.unlink, entry.path)
    _call_tolerating(FileNotFoundError, os.rmdir, path)


def _call_tolerating(expected: type[OSError], call: Callable[..., object], *arguments: object) -> bool:
    """Call a function and return False if it raised `expected`, because another process was faster."""
    try:
        call(*arguments)
    except expected:
        return False
    return True
