"""Reading of untrusted JSON and small text files, with limits on size, nesting depth and numbers."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.core.errors import CompressError, ModelError
from compress.core.units import MIB

MAX_BYTES = 256 * MIB
"""Maximum bytes of a file that is read as a whole; vocabularies with merges are the largest."""
MAX_DEPTH = 100
"""Maximum nesting depth of mappings and lists."""
_MAX_DIGITS = 40
"""Maximum characters of a number; floats and 64-bit integers need 25."""
_CONTENT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(
    path: Path,
    *,
    error: type[CompressError] = ModelError,
    finite: bool = True,
) -> Any:
    """Parse a JSON file; `finite` as in `parse_json`.

    Raises:
        FileNotFoundError: there is no such file.
        error: it cannot be read (`unreadable`), or is not JSON within the limits (`not-json`).
    """
    return parse_json(read_limited(path, error=error), str(path), error=error, finite=finite)


def read_mapping(
    path: Path,
    *,
    error: type[CompressError] = ModelError,
) -> dict[str, Any]:
    """Parse a JSON file that contains a mapping.

    Raises:
        FileNotFoundError: there is no such file.
        error: as `read_json`, or the value is not a mapping (`not-json`).
    """
    value = read_json(path, error=error)
    if not isinstance(value, dict):
        raise error("expected a mapping", where=str(path), code="not-json")
    return value


def parse_json(
    raw: bytes | str, where: str, *, error: type[CompressError] = ModelError, finite: bool = True
) -> Any:
    """Parse a JSON text.

    Args:
        raw: the text; bytes are decoded as UTF-8.
        where: the source of the text, for the error.
        finite: reject `NaN` and `Infinity`, which are not JSON but which Python writes.

    Raises:
        error: with the code `not-json`: the text is not JSON, is nested too deeply, or contains a number that is not
            finite or does not fit 64 bits, or a string that is not valid Unicode.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        constant = _reject_constant if finite else float
        value = json.loads(text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _not_json_error("nested too deeply", where, error) from None
    except UnicodeError:
        raise _not_json_error("not valid Unicode", where, error) from None
    except ValueError as fault:
        raise _not_json_error(str(fault), where, error) from fault
    if _is_too_deep(value):
        raise _not_json_error(f"nested more than {MAX_DEPTH} levels deep", where, error)
    return value


def read_limited(path: Path, *, error: type[CompressError] = ModelError, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file; pipes, which may never end, and devices are rejected.

    Raises:
        FileNotFoundError: there is no such file.
        error: with the code `unreadable`: it cannot be read, is not a regular file or is larger than `max_bytes` bytes.
    """
    try:
        # Opening a named pipe without a writer would block forever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise error("not a regular file", where=str(path), code="unreadable")
            if status.st_size > max_bytes:
                raise error(
                    f"larger than {max_bytes // MIB} MiB, the limit for such a file",
                    where=str(path),
                    code="unreadable",
                )
            return stream.read(max_bytes)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise error(f"cannot be read: {reason}", where=str(path), code="unreadable") from fault


def _is_too_deep(value: object) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or not -(2**63) <= (value := int(digits)) < 2**64:
        raise ValueError("it has a number of more than 64 bits")
    return value


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("it has a number that is too large")
    return value


def _reject_constant(constant: str) -> float:
    raise ValueError(f"it has {constant}, which JSON does not allow")


def _not_json_error(reason: str, where: str, error: type[CompressError]) -> CompressError:
    return error(f"this file is damaged: not JSON that can be read: {reason}", where=where, code="not-json")


@contextmanager
def content_errors(subject: str, where: str, error: type[CompressError] = ModelError) -> Iterator[None]:
    """Convert unforeseen exceptions caused by inconsistent untrusted values into an error for the user.

    This includes panics of libraries written in Rust, which are not subclasses of `Exception`.

    Args:
        subject: the source of the values, for the message.
        where: its location, for the error.

    Raises:
        error: with the code `not-understood`; `CompressError`, `OSError` and `MemoryError` pass through unchanged.
    """
    try:
        yield
    except (CompressError, OSError, MemoryError):
        raise
    except _CONTENT_ERRORS as fault:
        message = (str(fault).strip() or "no message").splitlines()[0][:300]
        raise error(
            f"{subject} cannot be understood: {type(fault).__name__}: {message}",
            where=where,
            hint="`--debug` shows the traceback.",
            code="not-understood",
        ) from fault
    except BaseException as fault:
        # The tokenizers library raises bare `Exception`s; onnxruntime's error classes derive directly from it.
        from_library = type(fault) is Exception or type(fault).__module__.startswith("onnxruntime.")
        if not is_panic(fault) and not from_library:
            raise
        message = " ".join(str(fault).split())[:300]
        raise error(
            f"{subject} cannot be understood: {message}", where=where, code="not-understood"
        ) from fault


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library written in Rust."""
    return type(error).__name__ == "PanicException"
