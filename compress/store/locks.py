"""Locks of files: the system frees one when the process that holds it dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held(file: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold a lock.

    Args:
        on_wait: called where another process holds it, before that is waited for; what it raises ends the waiting.
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
