"""Register of the steps that running runs use, which must not be removed.

using/<token>.lock  held by a run while it is running; released by the system when its process dies
using/<token>.json  the keys of its steps
using/gate.lock     held while a run registers its keys and while something is removed
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.core.disk.files import DamagedFileError, discard, make_folder, read_sealed, remove, write_sealed


class KeysInUse:
    """The register of one cache, in a folder of the cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def protect(self, keys: Collection[str]) -> Iterator[None]:
        """Protect the steps `keys` from removal."""
        token = secrets.token_hex(8)
        file, run_lock = self._folder / f"{token}.json", FileLock(str(self._folder / f"{token}.lock"))
        make_folder(self._folder)
        with run_lock:
            try:
                with self._gate():
                    write_sealed(file, {"keys": sorted(keys)})
                yield
            finally:
                discard(file)
        discard(Path(run_lock.lock_file))

    @contextmanager
    def removing(self) -> Iterator[list[frozenset[str]]]:
        """Yield the keys that each running run uses; no run can register others during the context."""
        make_folder(self._folder)
        with self._gate():
            registered = [self._keys(file) for file in sorted(self._folder.glob("*.json"))]
            yield [keys for keys in registered if keys is not None]

    def _gate(self) -> FileLock:
        return FileLock(str(self._folder / "gate.lock"))

    def _keys(self, file: Path) -> frozenset[str] | None:
        """Return the keys that a running run uses; if its process died, remove its files and return None."""
        lock = file.with_suffix(".lock")
        try:
            with FileLock(str(lock), timeout=0):
                remove(file)
        except Timeout:
            try:
                return frozenset(read_sealed(file)["keys"])
            except (FileNotFoundError, DamagedFileError):
                # The run ended just now.
                return None
        remove(lock)
        return None
