"""The two ends of a pipe to another process, each with a limit of the time in which nothing moves."""

from __future__ import annotations

import os
import select
import time
from typing import IO

from compress.core.units import MIB


class Silent(Exception):
    """Nothing moved for as long as was allowed."""


class Pipes:
    """What is written to a process and read of it, unbuffered pipes both.

    Args:
        seconds: how long a read or a write waits for the first byte that moves.
    """

    def __init__(self, writes: IO[bytes], reads: IO[bytes], seconds: float) -> None:
        self._writes, self._reads = writes, reads
        self.seconds = seconds
        self._read = b""
        os.set_blocking(writes.fileno(), False)

    def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            Silent: the other end takes nothing.
            BrokenPipeError: there is no other end any more.
        """
        left = memoryview(data)
        while left:
            if not select.select([], [self._writes], [], self.seconds)[1]:
                raise Silent
            try:
                left = left[os.write(self._writes.fileno(), left[:MIB]) :]
            except BlockingIOError:
                continue

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`.

        Raises:
            Silent: none came.
            EOFError: none will.
        """
        if not self._read:
            self._read = self._more(self.seconds)
        found, self._read = self._read[:count], self._read[count:]
        return found

    def line(self, longest: int, seconds: float | None = None) -> bytes:
        """A line with its end, or the first `longest` bytes of it.

        Args:
            seconds: for all of it; unset: it may take as long as bytes keep coming.

        Raises:
            Silent: it did not come.
            EOFError: no line will.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        pieces = [self._read]
        size = len(self._read)
        while b"\n" not in pieces[-1] and size < longest:
            left = self.seconds if deadline is None else deadline - time.monotonic()
            pieces.append(self._more(left))
            size += len(pieces[-1])
        whole = b"".join(pieces)
        end = min(whole.find(b"\n") + 1 or size, longest)
        self._read = whole[end:]
        return whole[:end]

    def close(self) -> None:
        """Close both ends."""
        self._writes.close()
        self._reads.close()

    def _more(self, seconds: float) -> bytes:
        if not select.select([self._reads], [], [], max(0.0, seconds))[0]:
            raise Silent
        found = os.read(self._reads.fileno(), MIB)
        if not found:
            raise EOFError
        return found
