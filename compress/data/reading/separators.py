"""Detect the field separator of a table from its first rows. Pure functions."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from compress.data.names import shown

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""Separators that can be detected, and their names in notes."""

_ROWS = 100
HEAD = 1 << 20
"""Number of characters at the beginning of a table that are inspected."""


_SAID = re.compile(r"sep=(.)\r?\n")
"""Separator declared by spreadsheets in a line before the header."""


def separated_by(text: str, usual: str, declared: str | None = None) -> tuple[str, str]:
    """Return the text of a table, with a line `sep=;` before its header emptied, and the separator.

    Args:
        usual: the default separator of the file's extension.
        declared: the profile's `data.separator`.
    """
    said = _SAID.match(text)
    if said is not None:
        return "\n" + text[said.end() :], declared or said[1]
    return text, declared or find_separator(text, usual)


def find_separator(text: str, usual: str) -> str:
    """Return the separator of a table, `usual` unless another one fits better.

    It has to divide the header. Among several that do, the one with which most of the first rows have as many fields as
    the header wins, then `usual`, then the one that yields the most fields.
    """
    head = text[:HEAD]
    if not any(mark in head for mark in SEPARATORS if mark != usual):
        return usual
    counts = {mark: _fields(head, mark) for mark in SEPARATORS}
    dividing = {mark: rows for mark, rows in counts.items() if rows and rows[0] > 1}
    if not dividing:
        return usual
    return max(
        dividing,
        key=lambda mark: (_even(dividing[mark]), mark == usual, dividing[mark][0]),
    )


def _fields(head: str, mark: str) -> list[int]:
    """Return the number of fields in the header and in each of the first rows, as far as they can be parsed."""
    counts: list[int] = []
    try:
        for row in csv.reader(io.StringIO(head, newline=""), delimiter=mark, strict=True):
            counts += [len(row)] if row else []
            if len(counts) == _ROWS:
                break
    except csv.Error:
        # A row that is malformed with this separator counts as having a different number of fields.
        counts.append(0)
    return counts


def _even(counts: list[int]) -> float:
    """Return the fraction of rows with as many fields as the header."""
    rows = counts[1:]
    return sum(count == counts[0] for count in rows) / len(rows) if rows else 1.0


def separator_notes(mark: str, usual: str, declared: str | None, file: str) -> tuple[str, ...]:
    """Return a note if the separator of a file is neither the usual nor a declared one."""
    if mark == usual or declared is not None:
        return ()
    name = SEPARATORS.get(mark, repr(mark))
    return (f"the fields of {shown(file)} are separated by a {name}; `data.separator` overrides this",)


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB per field within the context."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
