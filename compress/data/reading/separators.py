"""What separates the fields of a table that its ending does not tell: from its first rows. Pure."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from compress.data.names import shown

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""The separators that tables are found with, and what notes call them."""

_ROWS = 100
HEAD = 1 << 20
"""Letters at the beginning of a table that are looked at."""


_SAID = re.compile(r"sep=(.)\r?\n")
"""How spreadsheets say it in a line before the header."""


def separated_by(text: str, usual: str, declared: str | None = None) -> tuple[str, str]:
    """The text of a table, with a line `sep=;` before its header left empty, and its separator.

    Args:
        usual: the separator that its ending stands for.
        declared: the profile's `data.separator`.
    """
    said = _SAID.match(text)
    if said is not None:
        return "\n" + text[said.end() :], declared or said[1]
    return text, declared or find_separator(text, usual)


def find_separator(text: str, usual: str) -> str:
    """The separator of a table, which is `usual` wherever nothing speaks for another.

    It divides the header; of several that do, the one by which most of the first rows have as many fields as the header
    has, then `usual`, then the one that makes the most fields.
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
    """How many fields the header and each of the first rows has, as far as they can be read."""
    counts: list[int] = []
    try:
        for row in csv.reader(io.StringIO(head, newline=""), delimiter=mark, strict=True):
            counts += [len(row)] if row else []
            if len(counts) == _ROWS:
                break
    except csv.Error:
        # A row that this separator leaves malformed counts as one of another number of fields.
        counts.append(0)
    return counts


def _even(counts: list[int]) -> float:
    """The share of the rows that have as many fields as the header."""
    rows = counts[1:]
    return sum(count == counts[0] for count in rows) / len(rows) if rows else 1.0


def separator_notes(mark: str, usual: str, declared: str | None, file: str) -> tuple[str, ...]:
    """What is said of a file whose separator is not the usual one, where the profile does not name it."""
    if mark == usual or declared is not None:
        return ()
    name = SEPARATORS.get(mark, repr(mark))
    return (f"the fields of {shown(file)} are separated by a {name}; `data.separator` overrides this",)


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB a field while a file is read."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
