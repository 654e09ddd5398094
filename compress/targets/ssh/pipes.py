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

    def __init__(self, input_pipe: IO[bytes], output_pipe: IO[bytes], seconds: float) -> None:
        self._input_pipe, self._output_pipe = input_pipe, output_pipe
        self.seconds = seconds
        self._buffer = b""
        os.set_blocking(input_pipe.fileno(), False)

    def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            InactivityTimeout: the other end accepts no data.
            BrokenPipeError: the other end is closed.
        """
        remaining = memoryview(data)
        while remaining:
            if not select.select([], [self._input_pipe], [], self.seconds)[1]:
                raise InactivityTimeout(self.seconds)
            try:
                remaining = remaining[os.write(self._input_pipe.fileno(), remaining[:MIB]) :]
            except BlockingIOError:
                continue

    def read(self, count: int) -> bytes:
        """Read at least one and at most `count` bytes.

        Raises:
            InactivityTimeout: no data arrived in time.
            EOFError: the other end is closed.
        """
        if not self._buffer:
            self._buffer = self._read_chunk(self.seconds)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def read_line(self, max_bytes: int, seconds: float | None = None) -> bytes:
        """Read a line including its newline, or its first `max_bytes` bytes.

        Args:
            max_bytes: maximum number of bytes.
            seconds: timeout for the whole line; if unset, only inactivity times out.

        Raises:
            InactivityTimeout: the line did not arrive in time.
            EOFError: the other end is closed.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        chunks = [self._buffer]
        size = len(self._buffer)
        while b"\n" not in chunks[-1] and size < max_bytes:
            chunk_timeout = self.seconds if deadline is None else deadline - time.monotonic()
            chunks.append(self._read_chunk(chunk_timeout))
            size += len(chunks[-1])
        data = b"".join(chunks)
        end = min(data.find(b"\n") + 1 or size, max_bytes)
        self._buffer = data[end:]
        return data[:end]

    def close(self) -> None:
        """Close both ends."""
        self._input_pipe.close()
        self._output_pipe.close()

    def _read_chunk(self, seconds: float) -> bytes:
        if not select.select([self._output_pipe], [], [], max(0.0, seconds))[0]:
            raise InactivityTimeout(seconds)
        data = os.read(self._output_pipe.fileno(), MIB)
        if not data:
            raise EOFError
        return data
