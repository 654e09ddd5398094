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

from compress.data.names import find_column, printable
from compress.data.reading.separators import HEAD_CHARS, long_fields, resolve_separator, separator_notes
from compress.data.rows import Columns, Rows
from compress.store.flat import RaggedWriter, blocks_of
from compress.store.texts import StoredTexts, as_bytes

LARGE_BYTES = 16 * 1024 * 1024
"""Minimum file size in bytes."""

_BATCH_ROWS = 1024
_MESSAGES_KEY, _COMPLETION_KEY = "messages_column", "completion_column"
_Row = tuple[int, Mapping[str, Any]]
"""Line or row number, and the values."""


class _Unsupported(Exception):
    """Raised for input that only the standard readers handle."""


def read_large(path: Path, columns: Columns) -> Rows | None:
    """Return the rows of a large file, conversations as JSON; None if the standard readers have to read it."""
    extension, file_format, notes = path.suffix.lower(), columns.file_format, list[str]()
    reader = _READERS.get(extension)
    labelled = columns.label is not None and columns.label_key != _COMPLETION_KEY
    # The standard readers report a separator declared for a format without one.
    unsupported = file_format.encoding is not None or (
        file_format.separator is not None and extension not in _DEFAULT_SEPARATORS
    )
    if reader is None or labelled or unsupported:
        return None
    try:
        if path.stat().st_size < LARGE_BYTES:
            return None
        row_numbers, stored = _store_columns(reader(path, columns, notes), columns)
    except (_Unsupported, OSError, ValueError, TypeError, RecursionError, csv.Error):
        return None
    prefix = f"{printable(path)}: row " if extension == ".parquet" else f"{printable(path)}:"
    labels = stored[1] if len(stored) > 1 else [None] * len(row_numbers)
    return Rows(
        printable(path), stored[0], labels, location=lambda i: f"{prefix}{row_numbers[i]}", notes=tuple(notes)
    )


def read_large_texts(paths: Sequence[Path]) -> StoredTexts | None:
    """Return the texts of many files; None if the standard reader has to read them."""
    try:
        if sum(path.stat().st_size for path in paths) < LARGE_BYTES:
            return None
        return StoredTexts.of(_plain_utf8(path.read_bytes().decode("utf-8")) for path in paths)
    except (_Unsupported, OSError, UnicodeDecodeError):
        return None


def _plain_utf8(text: str) -> str:
    """Return a text, or a part of one, if nothing suggests an encoding other than UTF-8."""
    if text.startswith("\ufeff") or "\0" in text:
        raise _Unsupported
    return text


def _store_columns(rows: Iterator[_Row], columns: Columns) -> tuple[array[int], list[StoredTexts]]:
    """Return the line or row number of each row, and the columns."""
    row_numbers, names = array("q"), list[str]()
    writers = [RaggedWriter(np.uint8) for _ in columns.names]
    for block in blocks_of(rows):
        names = names or [_find_name(name, block[0][1]) for name in columns.names]
        row_numbers.extend(number for number, _ in block)
        for name, writer in zip(names, writers, strict=True):
            writer.add(as_bytes(_cell_text(row.get(name), columns) for _, row in block))
    if not row_numbers:
        raise _Unsupported
    return row_numbers, [StoredTexts(writer.finish()) for writer in writers]


def _find_name(name: str, row: Mapping[str, Any]) -> str:
    match = find_column(name, list(row))
    if match is None:
        raise _Unsupported
    return match


def _cell_text(value: Any, columns: Columns) -> str:
    if isinstance(value, str):
        return value
    if columns.text_key == _MESSAGES_KEY and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    raise _Unsupported


def _iter_json_lines(path: Path, columns: Columns, notes: list[str]) -> Iterator[_Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                # Decoded strictly: anything that is not UTF-8 is unusual.
                row = json.loads(line.decode("utf-8"))
                if not isinstance(row, dict):
                    raise _Unsupported
                yield number, row


def _iter_parquet(path: Path, columns: Columns, notes: list[str]) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            names = [_find_name(name, dict.fromkeys(known)) for name in columns.names]
            if any(known.count(name) > 1 for name in names):
                raise _Unsupported
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except pa.ArrowException as error:
        raise _Unsupported from error


def _iter_separated(path: Path, columns: Columns, notes: list[str]) -> Iterator[_Row]:
    default, declared = _DEFAULT_SEPARATORS[path.suffix.lower()], columns.file_format.separator
    with path.open(encoding="utf-8", newline="") as file, long_fields():
        head = file.read(HEAD_CHARS)
        text, separator = resolve_separator(head, default, declared)
        if text != head:
            # The file begins with a `sep=` line.
            raise _Unsupported
        notes += separator_notes(separator, default, declared, path.name)
        file.seek(0)
        header, start_line = list[str](), 1
        reader = csv.reader(map(_plain_utf8, file), delimiter=separator, strict=True)
        for row in reader:
            line, start_line = start_line, reader.line_num + 1
            if row and not header:
                header = [name.strip() for name in row]
                if any(header.count(name) > 1 for name in header):
                    raise _Unsupported
            elif row:
                if len(row) != len(header):
                    raise _Unsupported
                yield line, dict(zip(header, row, strict=True))


_DEFAULT_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_READERS: Mapping[str, Callable[[Path, Columns, list[str]], Iterator[_Row]]] = {
    ".jsonl": _iter_json_lines,
    ".parquet": _iter_parquet,
    **dict.fromkeys(_DEFAULT_SEPARATORS, _iter_separated),
}
