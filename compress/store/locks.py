"""File locks, which the system releases when the process that holds them dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def hold_lock(file: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold a file lock.

    Args:
        file: the lock file.
        on_wait: called before waiting if another process holds the lock; an exception that it raises is passed on.
    """
    lock = FileLock(str(file))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
