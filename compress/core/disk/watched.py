"""The files of the user that a run reads: their digests, found again cheaply, so that a change is noticed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from compress.core.disk.files import sha256_file

_SETTLED_S = 2.0
"""A file that was changed so shortly before it was read may be changed again within one tick of its clock."""

_Stat = tuple[int, ...]


@dataclass(frozen=True)
class _Read:
    """A file as it was when it was read; `settled`: whether its stat would tell of a later change."""

    sha256: str
    stat: _Stat
    settled: bool


class Watched:
    """Digests of files. One that is as it was, by size, times and inode, is not read again."""

    def __init__(self) -> None:
        self._read: dict[Path, _Read] = {}

    def sha256(self, path: Path) -> str:
        """The sha256 of a file's bytes as they are now.

        Raises:
            OSError: it cannot be read.
        """
        before = self._read.get(path)
        stat = _stat(path)
        if before is None or not before.settled or before.stat != stat:
            found = sha256_file(path)
            settled = time.time() - max(stat[2:4]) / 1e9 > _SETTLED_S and _stat(path) == stat
            self._read[path] = before = _Read(found, stat, settled)
        return before.sha256

    def changed(self) -> list[Path]:
        """The files whose bytes are not those that were found before, or that are gone; from now on these count."""
        return [path for path, before in sorted(self._read.items()) if self._now(path) != before.sha256]

    def _now(self, path: Path) -> str | None:
        try:
            return self.sha256(path)
        except OSError:
            return None


def _stat(path: Path) -> _Stat:
    found = os.stat(path)
    return (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
