"""Digests of the user's files that a run reads, cached by stat, to detect changes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from compress.core.disk.files import sha256_file

_SETTLED_S = 2.0
"""A file modified less than this before it was read may change again within the resolution of its timestamps."""

_Stat = tuple[int, ...]


@dataclass(frozen=True)
class _CachedDigest:
    """State of a file when it was read; `settled`: whether a later change would be visible in its stat."""

    sha256: str
    stat: _Stat
    settled: bool


class FileDigests:
    """Cache of file digests; a file is read again only if its size, times or inode changed."""

    def __init__(self) -> None:
        self._cached: dict[Path, _CachedDigest] = {}

    def sha256(self, path: Path) -> str:
        """Return the sha256 of a file's current content.

        Raises:
            OSError: it cannot be read.
        """
        cached = self._cached.get(path)
        stat = _stat(path)
        if cached is None or not cached.settled or cached.stat != stat:
            digest = sha256_file(path)
            settled = time.time() - max(stat[2:4]) / 1e9 > _SETTLED_S and _stat(path) == stat
            self._cached[path] = cached = _CachedDigest(digest, stat, settled)
        return cached.sha256

    def changed(self) -> list[Path]:
        """Return the files that changed or vanished since they were last read, and update their digests."""
        return [
            path
            for path, cached in sorted(self._cached.items())
            if self._current_sha256(path) != cached.sha256
        ]

    def _current_sha256(self, path: Path) -> str | None:
        try:
            return self.sha256(path)
        except OSError:
            return None


def _stat(path: Path) -> _Stat:
    status = os.stat(path)
    return (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
