"""Which steps the runs that go on now have use for: nobody may remove those.

using/<token>.lock  held by a run as long as it goes on; the system frees it when its process dies
using/<token>.json  the keys of its steps
using/gate.lock     held while a run says what it uses, and while something is removed
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.core.disk.files import Damaged, discard, make_folder, read_sealed, remove, write_sealed


class InUse:
    """The register of one cache, in a folder of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, keys: Collection[str]) -> Iterator[None]:
        """Keep these steps from being removed."""
        token = secrets.token_hex(8)
        file, own = self._folder / f"{token}.json", FileLock(str(self._folder / f"{token}.lock"))
        make_folder(self._folder)
        with own:
            try:
                with self._gate():
                    write_sealed(file, {"keys": sorted(keys)})
                yield
            finally:
                discard(file)
        discard(Path(own.lock_file))

    @contextmanager
    def removing(self) -> Iterator[list[frozenset[str]]]:
        """The keys that must stay, of each run that goes on; none takes up another one meanwhile."""
        make_folder(self._folder)
        with self._gate():
            found = [self._keys(file) for file in sorted(self._folder.glob("*.json"))]
            yield [keys for keys in found if keys is not None]

    def _gate(self) -> FileLock:
        return FileLock(str(self._folder / "gate.lock"))

    def _keys(self, file: Path) -> frozenset[str] | None:
        """What a living run uses; None, and no trace any more, where its process died."""
        lock = file.with_suffix(".lock")
        try:
            with FileLock(str(lock), timeout=0):
                remove(file)
        except Timeout:
            try:
                return frozenset(read_sealed(file)["keys"])
            except (FileNotFoundError, Damaged):
                # It ended just now.
                return None
        remove(lock)
        return None
