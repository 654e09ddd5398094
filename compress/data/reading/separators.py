"""Detect the field separator of a table from its first rows. Pure functions."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from compress.data.names import printable

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""Separators that can be detected, and their names in notes."""

_INSPECTED_ROWS = 100
HEAD_CHARS = 1 << 20
"""Number of characters at the beginning of a table that are inspected."""


_SEP_LINE = re.compile(r"sep=(.)\r?\n")
"""Separator declared by spreadsheets in a line before the header."""


def resolve_separator(text: str, default: str, declared: str | None = None) -> tuple[str, str]:
    """Return the text of a table, with a line `sep=;` before its header emptied, and the separator.

    Args:
        default: the default separator of the file's extension.
        declared: the profile's `data.separator`.
    """
    match = _SEP_LINE.match(text)
    if match is not None:
        return "\n" + text[match.end() :], declared or match[1]
    return text, declared or detect_separator(text, default)


def detect_separator(text: str, default: str) -> str:
    """Return the separator of a table, `default` unless another one fits better.

    It has to divide the header. Among several that do, the one with which most of the first rows have as many fields as
    the header wins, then `default`, then the one that yields the most fields.
    """
    head = text[:HEAD_CHARS]
    if not any(separator in head for separator in SEPARATORS if separator != default):
        return default
    counts = {separator: _field_counts(head, separator) for separator in SEPARATORS}
    usable = {separator: rows for separator, rows in counts.items() if rows and rows[0] > 1}
    if not usable:
        return default
    return max(
        usable,
        key=lambda mark: (_regularity(usable[mark]), mark == default, usable[mark][0]),
    )


def _field_counts(head: str, separator: str) -> list[int]:
    """Return the number of fields in the header and in each of the first rows, as far as they can be parsed."""
    counts: list[int] = []
    try:
        for row in csv.reader(io.StringIO(head, newline=""), delimiter=separator, strict=True):
            counts += [len(row)] if row else []
            if len(counts) == _INSPECTED_ROWS:
                break
    except csv.Error:
        # A row that is malformed with this separator counts as having a different number of fields.
        counts.append(0)
    return counts


def _regularity(counts: list[int]) -> float:
    """Return the fraction of rows with as many fields as the header."""
    rows = counts[1:]
    return sum(count == counts[0] for count in rows) / len(rows) if rows else 1.0


def separator_notes(separator: str, default: str, declared: str | None, file: str) -> tuple[str, ...]:
    """Return a note if the separator of a file is neither the usual nor a declared one."""
    if separator == default or declared is not None:
        return ()
    name = SEPARATORS.get(separator, repr(separator))
    return (f"the fields of {printable(file)} are separated by a {name}; `data.separator` overrides this",)


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB per field within the context."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
