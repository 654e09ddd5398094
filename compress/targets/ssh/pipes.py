"""Pipes to and from another process with timeouts for inactivity."""

from __future__ import annotations

import os
import select
import time
from typing import IO

from compress.core.units import MIB


class InactivityTimeout(Exception):
    """Nothing could be read or written within the timeout of `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing for {seconds:.0f} s")
        self.seconds = seconds


class Pipes:
    """Unbuffered pipes to the input and from the output of a process.

    Args:
        writes: the pipe to the process.
        reads: the pipe from the process.
        seconds: timeout of a read or write that makes no progress.
    """

    def __init__(self, writes: IO[bytes], reads: IO[bytes], seconds: float) -> None:
        self._writes, self._reads = writes, reads
        self.seconds = seconds
        self._read = b""
        os.set_blocking(writes.fileno(), False)

    def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            InactivityTimeout: the other end accepts no data.
            BrokenPipeError: the other end is closed.
        """
        left = memoryview(data)
        while left:
            if not select.select([], [self._writes], [], self.seconds)[1]:
                raise InactivityTimeout(self.seconds)
            try:
                left = left[os.write(self._writes.fileno(), left[:MIB]) :]
            except BlockingIOError:
                continue

    def read(self, count: int) -> bytes:
        """Read at least one and at most `count` bytes.

        Raises:
            InactivityTimeout: no data arrived in time.
            EOFError: the other end is closed.
        """
        if not self._read:
            self._read = self._more(self.seconds)
        found, self._read = self._read[:count], self._read[count:]
        return found

    def line(self, longest: int, seconds: float | None = None) -> bytes:
        """Read a line including its newline, or its first `longest` bytes.

        Args:
            longest: maximum number of bytes.
            seconds: timeout for the whole line; if unset, only inactivity times out.

        Raises:
            InactivityTimeout: the line did not arrive in time.
            EOFError: the other end is closed.
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
            raise InactivityTimeout(seconds)
        found = os.read(self._reads.fileno(), MIB)
        if not found:
            raise EOFError
        return found
