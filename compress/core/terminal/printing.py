"""What is printed: what others wrote never steers the terminal, and an output that nobody reads ends no work."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from typing import IO, Any

from compress.core.errors import ResourceError

_STEERING = re.compile(
    # Controls but tab and line feed; marks, embeddings, overrides and isolates of writing directions; separators of
    # lines and paragraphs; halves of surrogate pairs, which no encoding takes.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_NOBODY_READS = (errno.EPIPE, errno.EIO)
"""What writing to a closed pipe ends with, and to a terminal that hung up."""


def printable(text: object) -> str:
    """A text that others wrote, with what would steer a terminal (escape sequences, other controls, writing directions)
    spelled out: `\\u001b[31m`. Tabs and line feeds stay."""
    return _STEERING.sub(_spelled, str(text))


def echo(text: object = "", *, err: bool = False, newline: bool = True) -> None:
    """Print a text, whoever wrote it, to the standard output or error.

    Raises:
        ResourceError: the standard output cannot be written to.
    """
    stream = Stream(err=err)
    stream.write(printable(text) + ("\n" if newline else ""))
    stream.flush()


def echo_json(value: object) -> None:
    """Print plain values as JSON."""
    import json

    echo(json.dumps(value, indent=2))


class Stream:
    """The standard output or error of this process, as it is when it is written to.

    Where nobody reads any more, what is written is dropped. A standard error that cannot be written to is told of
    nowhere.
    """

    def __init__(self, *, err: bool = False) -> None:
        self._err = err

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            ResourceError: the standard output cannot be written to.
        """
        stream = self._stream()
        if stream is not None:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(stream, "encoding", None) or "ascii"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError) as error:
                self._failed(stream, error)
        return len(text)

    def flush(self) -> None:
        """Write what is still held back.

        Raises:
            ResourceError: the standard output cannot be written to.
        """
        stream = self._stream()
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError) as error:
                self._failed(stream, error)

    def _failed(self, stream: IO[str], error: OSError | ValueError) -> None:
        # Where it led is of no use any more; Python itself writes there once more when it ends.
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
        if not self._err and isinstance(error, OSError) and error.errno not in _NOBODY_READS:
            raise ResourceError(
                f"the output cannot be written: {error.strerror}", where="standard output"
            ) from error

    def _stream(self) -> IO[str] | None:
        return sys.stderr if self._err else sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


def _spelled(found: re.Match[str]) -> str:
    # As JSON spells it, so that a report in JSON stays what it is.
    return f"\\u{ord(found.group()):04x}"
