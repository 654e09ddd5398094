"""Large tables and folders of texts: read one by one into a file, where the usual readers would hold all of them.

What is unusual in any way (another encoding, a fault, a value that is no text) is left to the usual readers, which say
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
"""Bytes of a file."""

_ROWS = 1024
_CONVERSATIONS, _ANSWERS = "messages_column", "completion_column"
_Row = tuple[int, Mapping[str, Any]]
"""Its line or number, and its values."""


class _Unusual(Exception):
    """Something that only the usual readers know what to do with."""


def read_large(path: Path, columns: Columns) -> Rows | None:
    """The rows of a large file, conversations as JSON; None where the usual readers must read it."""
    ending, written, notes = path.suffix.lower(), columns.written, list[str]()
    reader = _READERS.get(ending)
    labelled = columns.label is not None and columns.label_key != _ANSWERS
    # Of a separator that others do not have, the usual readers say so.
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
    """The texts of many files; None where the usual reader must read them."""
    try:
        if sum(path.stat().st_size for path in paths) < LARGE:
            return None
        return StoredTexts.of(_usual(path.read_bytes().decode("utf-8")) for path in paths)
    except (_Unusual, OSError, UnicodeDecodeError):
        return None


def _usual(text: str) -> str:
    """A text, or a part of one, that is UTF-8 and nothing else by all signs."""
    if text.startswith("\ufeff") or "\0" in text:
        raise _Unusual
    return text


def _stored(rows: Iterator[_Row], columns: Columns) -> tuple[array[int], list[StoredTexts]]:
    """The line of each row, and its columns."""
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
                # Strictly: whatever is no UTF-8 is unusual.
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
            # It begins with a line that is no row.
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
