"""Large tables and text folders: streamed into a file, whereas the standard readers hold everything in memory.

Anything unusual (another encoding, a fault, a value that is not a string) is left to the standard readers, which report
what is wrong and where.
"""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.names import column_named, shown
from compress.data.reading.separators import HEAD, long_fields, separated_by, separator_notes
from compress.data.rows import Columns, Rows
from compress.store.flat import RaggedWriter, blocks_of
from compress.store.texts import StoredTexts, as_bytes

LARGE = 16 * 1024 * 1024
"""Minimum file size in bytes."""

_ROWS = 1024
_CONVERSATIONS, _ANSWERS = "messages_column", "completion_column"
_Row = tuple[int, Mapping[str, Any]]
"""Line or row number, and the values."""


class _Unusual(Exception):
    """Raised for input that only the standard readers handle."""


def read_large(path: Path, columns: Columns) -> Rows | None:
    """Return the rows of a large file, conversations as JSON; None if the standard readers have to read it."""
    ending, written, notes = path.suffix.lower(), columns.written, list[str]()
    reader = _READERS.get(ending)
    labelled = columns.label is not None and columns.label_key != _ANSWERS
    # The standard readers report a separator declared for a format without one.
    odd = written.encoding is not None or (written.separator is not None and ending not in _MARKS)
    if reader is None or labelled or odd:
        return None
    try:
        if path.stat().st_size < LARGE:
            return None
        places, stored = _stored(reader(path, columns, notes), columns)
    except (_Unusual, OSError, ValueError, TypeError, RecursionError, csv.Error):
        return None
    place = f"{shown(path)}: row " if ending == ".parquet" else f"{shown(path)}:"
    answers = stored[1] if len(stored) > 1 else [None] * len(places)
    return Rows(shown(path), stored[0], answers, place=lambda i: f"{place}{places[i]}", notes=tuple(notes))


def read_large_texts(paths: Sequence[Path]) -> StoredTexts | None:
    """Return the texts of many files; None if the standard reader has to read them."""
    try:
        if sum(path.stat().st_size for path in paths) < LARGE:
            return None
        return StoredTexts.of(_usual(path.read_bytes().decode("utf-8")) for path in paths)
    except (_Unusual, OSError, UnicodeDecodeError):
        return None


def _usual(text: str) -> str:
    """Return a text, or a part of one, if nothing suggests an encoding other than UTF-8."""
    if text.startswith("\ufeff") or "\0" in text:
        raise _Unusual
    return text


def _stored(rows: Iterator[_Row], columns: Columns) -> tuple[array[int], list[StoredTexts]]:
    """Return the line or row number of each row, and the columns."""
    places, names = array("q"), list[str]()
    writers = [RaggedWriter(np.uint8) for _ in columns.names]
    for block in blocks_of(rows):
        names = names or [_named(name, block[0][1]) for name in columns.names]
        places.extend(place for place, _ in block)
        for name, writer in zip(names, writers, strict=True):
            writer.add(as_bytes(_text(row.get(name), columns) for _, row in block))
    if not places:
        raise _Unusual
    return places, [StoredTexts(writer.finish()) for writer in writers]


def _named(name: str, row: Mapping[str, Any]) -> str:
    found = column_named(name, list(row))
    if found is None:
        raise _Unusual
    return found


def _text(value: Any, columns: Columns) -> str:
    if isinstance(value, str):
        return value
    if columns.text_key == _CONVERSATIONS and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    raise _Unusual


def _json_lines(path: Path, columns: Columns, notes: list[str]) -> Iterator[_Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                # Decoded strictly: anything that is not UTF-8 is unusual.
                row = json.loads(line.decode("utf-8"))
                if not isinstance(row, dict):
                    raise _Unusual
                yield number, row


def _parquet(path: Path, columns: Columns, notes: list[str]) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            wanted = [_named(name, dict.fromkeys(known)) for name in columns.names]
            if any(known.count(name) > 1 for name in wanted):
                raise _Unusual
            for batch in file.iter_batches(_ROWS, columns=wanted):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except pa.ArrowException as error:
        raise _Unusual from error


def _separated(path: Path, columns: Columns, notes: list[str]) -> Iterator[_Row]:
    usual, declared = _MARKS[path.suffix.lower()], columns.written.separator
    with path.open(encoding="utf-8", newline="") as file, long_fields():
        head = file.read(HEAD)
        text, mark = separated_by(head, usual, declared)
        if text != head:
            # The file begins with a `sep=` line.
            raise _Unusual
        notes += separator_notes(mark, usual, declared, path.name)
        file.seek(0)
        header, begin = list[str](), 1
        reader = csv.reader(map(_usual, file), delimiter=mark, strict=True)
        for row in reader:
            line, begin = begin, reader.line_num + 1
            if row and not header:
                header = [name.strip() for name in row]
                if any(header.count(name) > 1 for name in header):
                    raise _Unusual
            elif row:
                if len(row) != len(header):
                    raise _Unusual
                yield line, dict(zip(header, row, strict=True))


_MARKS = {".csv": ",", ".tsv": "\t"}
_READERS: Mapping[str, Callable[[Path, Columns, list[str]], Iterator[_Row]]] = {
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    **dict.fromkeys(_MARKS, _separated),
}
