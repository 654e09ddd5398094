"""Every write, rename and removal of what must last. Written, forced to the disk, renamed, and the folder forced too.

A name never stands for a part of a file or folder: what is being made has a hidden temporary name until all of it is on
the disk, so neither a kill nor a power cut leaves a name on nothing. Only `os` is called here, so that a test can let
any single call fail, or record their order.

What is read back carries a checksum: `write_sealed` and `read_sealed` for JSON, `sha256_file` for everything else.
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
_FULL = (errno.ENOTEMPTY, errno.EEXIST)
_OTHER_KIND = (errno.ENOTDIR, errno.EISDIR)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems say that cannot force a folder to the disk; they order renames themselves."""


class Damaged(ValueError):
    """What was read is not what was written."""


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files that belong together: all lie on the disk under temporary names before the first is renamed."""
    temporary = {path: _temporary(path) for path in texts}
    try:
        for path, text in texts.items():
            _fill(temporary[path], text.encode("utf-8", "backslashreplace"))
        for path, made in temporary.items():
            move(made, path)
    finally:
        for made in temporary.values():
            discard(made)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file with stable key order."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_sealed(path: Path, body: Mapping[str, object]) -> str:
    """Write a JSON object with the checksum of what it says, under the key `sha256`; the checksum."""
    checksum = checksum_of(body)
    write_json(path, {**body, _CHECKSUM: checksum})
    return checksum


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    with replacing(path) as temporary:
        _fill(temporary, content)


def allocate(path: Path, size: int) -> None:
    """A file of so many zero bytes, to be filled in place; what stood there is gone."""
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.ftruncate(descriptor, size)


@contextmanager
def appending(path: Path, size: int) -> Iterator[Callable[[bytes], None]]:
    """Cut a file to its first `size` bytes, and give what adds to it; what was added is on the disk then.

    The one file that grows under its name: whoever reads it must know a piece that was cut off.
    """
    with _opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, 0, os.SEEK_END)
        os.fsync(descriptor)
        _force(path.parent)

        def add(content: bytes) -> None:
            _write(descriptor, content, path)
            os.fsync(descriptor)

        yield add


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix, for a library to write to; then it is on the disk as `path`."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        _force(temporary)
        move(temporary, path)
    finally:
        discard(temporary)


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file."""
    with replacing(target) as temporary:
        _copy(source, temporary)


def copy_tree(source: Path, target: Path, *, without: Collection[str] = ()) -> None:
    """Copy a folder, but files of the names `without`, as a whole or not at all; what stood at `target` goes.

    Another process may do the same at the same time: the last one stays, and both are whole.
    """
    temporary = _temporary(target)
    try:
        _copy_into(source, temporary, without)
        publish(temporary, target)
    finally:
        discard(temporary)


def publish(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, with all that is in it on the disk; what stood there goes.

    Raises:
        OSError: it cannot be done; the source stays.
    """
    _force_all(source)
    while True:
        try:
            move(source, target)
            return
        except OSError as error:
            # A folder cannot replace a full one, nor a file a folder. Each further turn means that another process
            # published here meanwhile.
            if error.errno not in _FULL and not (error.errno in _OTHER_KIND and os.path.lexists(target)):
                raise
        remove(target)


def move(source: Path, target: Path) -> None:
    """Give what stands somewhere another name on the same disk, in place of a file of that name."""
    os.replace(source, target)
    _force(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; it may be there already.

    Raises:
        OSError: it cannot be made, or something else has its name.
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
    _force(path.parent)


def empty_folder(path: Path) -> None:
    """Make a folder with nothing in it; what stood there goes."""
    remove(path)
    make_folder(path)


def remove(path: Path) -> None:
    """Remove a file or a folder of ours; it need not be there. It loses its name before anything of it goes.

    Raises:
        OSError: it cannot be removed.
    """
    if not os.path.lexists(path):
        return
    doomed = path
    if not is_temporary(path):
        # Under a name of its own nobody else touches it: what it is does not change between looking and removing.
        doomed = _temporary(path)
        if not _without(FileNotFoundError, os.rename, path, doomed):
            return
        _force(path.parent)
    if doomed.is_dir() and not doomed.is_symlink():
        _remove_tree(doomed)
    else:
        _without(FileNotFoundError, os.unlink, doomed)


def discard(path: Path) -> None:
    """Remove what was given up, if it can be: what stays under a temporary name is never taken for something."""
    try:
        remove(path)
    except OSError:
        return


def is_temporary(path: Path) -> bool:
    """Whether this is a name that something has here while it is made or removed; a kill leaves it behind."""
    return _TEMPORARY.fullmatch(path.name) is not None


def read_bytes(path: Path) -> bytes:
    """All bytes of a file."""
    return b"".join(_chunks(path))


def read_json(path: Path) -> Any:
    """A parsed JSON file.

    Raises:
        OSError: it cannot be read.
        Damaged: it is no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        OSError: it cannot be read.
        Damaged: it says something else than what was written.
    """
    body = read_json(path)
    try:
        whole = isinstance(body, dict) and body.pop(_CHECKSUM, None) == checksum_of(body)
    except RecursionError:
        whole = False
    if not whole:
        raise Damaged(f"{path} is damaged: its content does not match its checksum")
    found: dict[str, Any] = body
    return found


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def entry_of(path: Path) -> dict[str, Any]:
    """What is noted of a file, for `first_damaged`: its sha256 and bytes."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def first_damaged(
    folder: Path, entries: Mapping[str, Mapping[str, Any]], *, hashed: bool = True
) -> Path | None:
    """The first of the noted files that is missing or was changed; None: all are as they were written.

    Args:
        entries: what `entry_of` said, by the name in the folder.
        hashed: read every file; else sizes alone are compared.
    """
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return file
        if hashed and sha256_file(file) != entry["sha256"]:
            return file
    return None


def digest_of(value: object) -> str:
    """sha256 of plain JSON values: what equal ones are known by."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checksum_of(body: Mapping[str, object]) -> str:
    """sha256 of what a JSON object says, however it is written."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _fill(path: Path, content: bytes) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        _write(descriptor, content, path)
        os.fsync(descriptor)


def _copy(source: Path, target: Path) -> None:
    with _opened(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        for chunk in _chunks(source):
            _write(descriptor, chunk, target)
        os.fsync(descriptor)


def _copy_into(source: Path, target: Path, without: Collection[str]) -> None:
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name in without:
                continue
            if entry.is_dir():
                _copy_into(Path(entry), target / entry.name, without)
            else:
                _copy(Path(entry), target / entry.name)


def _write(descriptor: int, content: bytes, path: Path) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        # A write that fails does not say where; a full disk is told by its place.
        error.filename = error.filename or str(path)
        raise


def _chunks(path: Path) -> Iterator[bytes]:
    # A pipe that nobody writes to would hold this up for ever.
    with _opened(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)) as descriptor:
        while chunk := os.read(descriptor, MIB):
            yield chunk


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _force(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    with _opened(path, os.O_RDONLY) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                error.filename = error.filename or str(path)
                raise


def _force_all(path: Path) -> None:
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                _force_all(Path(entry))
    _force(path)


def _remove_tree(path: Path) -> None:
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(Path(entry))
            else:
                _without(FileNotFoundError, os.unlink, entry.path)
    _without(FileNotFoundError, os.rmdir, path)


def _without(expected: type[OSError], call: Callable[..., object], *arguments: object) -> bool:
    """Make a call; False where another process was faster."""
    try:
        call(*arguments)
    except expected:
        return False
    return True
