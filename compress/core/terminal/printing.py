"""Safe printing: foreign text cannot control the terminal, and a closed output does not stop the work."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from typing import IO, Any

from compress.core.errors import ResourceError

_CONTROL_CHARACTERS = re.compile(
    # Control characters except tab and line feed; bidirectional marks, embeddings, overrides and isolates; line and
    # paragraph separators; lone surrogates, which cannot be encoded.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_CLOSED_ERRNOS = (errno.EPIPE, errno.EIO)
"""Errors of writing to a closed pipe (EPIPE) or to a terminal that hung up (EIO)."""


def printable(text: object) -> str:
    """Escape the characters that control a terminal (escape sequences, other controls, text direction), as in
    `\\u001b[31m`. Tabs and line feeds stay."""
    return _CONTROL_CHARACTERS.sub(_escape_match, str(text))


def echo(text: object = "", *, err: bool = False, newline: bool = True) -> None:
    """Print an untrusted text to standard output or error.

    Raises:
        ResourceError: the standard output cannot be written to.
    """
    stream = Stream(err=err)
    stream.write(printable(text) + ("\n" if newline else ""))
    stream.flush()


def echo_json(value: object) -> None:
    """Print a value as JSON."""
    import json

    echo(json.dumps(value, indent=2))


class Stream:
    """The current standard output or error of this process, looked up at each write.

    Output to a closed pipe or terminal is dropped. Failures to write to standard error are ignored.
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
                self._handle_failure(stream, error)
        return len(text)

    def flush(self) -> None:
        """Flush the buffer.

        Raises:
            ResourceError: the standard output cannot be written to.
        """
        stream = self._stream()
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError) as error:
                self._handle_failure(stream, error)

    def _handle_failure(self, stream: IO[str], error: OSError | ValueError) -> None:
        # Redirect the dead stream to the null device, because Python flushes it once more at exit.
        with suppress(OSError, ValueError):
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, stream.fileno())
            os.close(null_device)
        if not self._err and isinstance(error, OSError) and error.errno not in _CLOSED_ERRNOS:
            raise ResourceError(
                f"the output cannot be written: {error.strerror}", where="standard output"
            ) from error

    def _stream(self) -> IO[str] | None:
        return sys.stderr if self._err else sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


def _escape_match(match: re.Match[str]) -> str:
    # JSON's escape syntax, so that JSON output stays valid and unchanged in meaning.
    return f"\\u{ord(match.group()):04x}"
