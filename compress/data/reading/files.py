"""Readers of csv, tsv, json, json lines and parquet files.

Python's own csv and json readers are used because they know the line number of each row, and keep every value as
written: the label `NA` stays a label, and `007` keeps its zeros.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compress.core.errors import DataError
from compress.core.spelling import nearest
from compress.data.faults import Faults
from compress.data.names import find_column, printable
from compress.data.reading.encodings import UTF_8, decode
from compress.data.reading.large import read_large
from compress.data.reading.separators import long_fields, resolve_separator, separator_notes
from compress.data.rows import Columns, Rows


def is_table(path: Path) -> bool:
    """Whether `read_table` supports the extension of a file."""
    return path.suffix.lower() in _READERS


def read_table(path: Path, columns: Columns) -> Rows:
    """Read the columns of a file; its extension determines the format.

    Raises:
        DataError: unknown extension, unreadable or malformed file, or a missing column.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"files ending in {path.suffix!r} are not supported; known endings: {', '.join(_READERS)}",
            where=printable(path),
        )
    return read_large(path, columns) or reader(path, columns)


def read_head(path: Path, rows: int = 2000) -> dict[str, list[object]]:
    """Return the first rows of a table, by column, with values as `read_table` reads them.

    Raises:
        DataError: as `read_table`, except for missing columns.
    """
    extension = path.suffix.lower()
    if extension == ".parquet":
        return _parquet_head(path, rows)
    text, _ = decode(read_bytes(path), path)
    if extension in (".csv", ".tsv"):
        default_separator = "\t" if extension == ".tsv" else ","
        with long_fields():
            text, separator = resolve_separator(text, default_separator)
            header, values, _ = _parse_separated(text, path, separator)
        return {name: [row[index] for row in values[:rows]] for index, name in enumerate(header)}
    is_array = text.lstrip().startswith("[")
    objects = (_json_array(text, path) if is_array else _json_lines(text, path)[0])[:rows]
    keys = dict.fromkeys(key for item in objects if isinstance(item, dict) for key in item)
    return {name: [item.get(name) for item in objects if isinstance(item, dict)] for name in keys}


def _parquet_head(path: Path, rows: int) -> dict[str, list[object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if not name.startswith("__")]
            batch = next(file.iter_batches(rows, columns=names), None)
            if batch is not None:
                batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=printable(path)) from error
    return {name: [] if batch is None else batch.column(name).to_pylist() for name in names}


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=printable(path), code="unreadable"
        ) from error


def encoding_notes(path: Path, encoding: str) -> tuple[str, ...]:
    """Return a note if a file was not read as UTF-8."""
    if encoding == UTF_8:
        return ()
    return (
        f"{printable(path.name)} is not UTF-8 and was read as {encoding}; `data.encoding` overrides this",
    )


def _read_separated(path: Path, columns: Columns, default_separator: str) -> Rows:
    """Read csv and tsv. The first line contains the column names; empty lines are skipped."""
    text, encoding = decode(read_bytes(path), path, columns.file_format.encoding)
    notes = () if columns.file_format.encoding else encoding_notes(path, encoding)
    with long_fields():
        text, separator = resolve_separator(text, default_separator, columns.file_format.separator)
        header, rows, lines = _parse_separated(text, path, separator)
    notes += separator_notes(separator, default_separator, columns.file_format.separator, path.name)
    names = _find_unique_columns(header, columns, path)
    text_index = header.index(names[0])
    label_index = None if columns.label is None else header.index(names[1])
    return Rows(
        where=printable(path),
        items=[row[text_index] for row in rows],
        labels=[None if label_index is None else row[label_index] for row in rows],
        location=lambda i: f"{printable(path)}:{lines[i]}",
        notes=notes,
    )


def _parse_separated(text: str, path: Path, delimiter: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the header, the rows, and the line number at which each row begins."""
    rows: list[list[str]] = []
    lines: list[int] = []
    faults = Faults()
    header: list[str] | None = None
    start_line = 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            line, start_line = start_line, reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                continue
            if len(row) != len(header):
                faults.add(
                    DataError(
                        f"{len(row)} fields where the header has {len(header)}",
                        where=f"{printable(path)}:{line}",
                        hint="A text that contains the separator or a line break must be in double quotes.",
                        code="row-fields",
                    )
                )
                continue
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        unclosed = "unexpected end of data" in str(error)
        message = "a double quote is opened and never closed" if unclosed else f"malformed: {error}"
        hint = 'A double quote inside a quoted text is written twice: "".'
        faults.add(DataError(message, where=f"{printable(path)}:{start_line}", hint=hint, code="row-quotes"))
    faults.raise_all()
    if header is None:
        raise DataError("the file is empty", where=printable(path))
    return header, rows, lines


def _read_json(path: Path, columns: Columns) -> Rows:
    """Read one JSON array of objects, or one object per line."""
    _refuse_separator(path, columns)
    text, encoding = decode(read_bytes(path), path, columns.file_format.encoding)
    if not text.strip():
        raise DataError("the file is empty", where=printable(path), code="data-empty")
    is_array = text.lstrip().startswith("[")
    objects, lines = (_json_array(text, path), None) if is_array else _json_lines(text, path)

    def locate(i: int) -> str:
        return f"{printable(path)}: entry {i}" if lines is None else f"{printable(path)}:{lines[i]}"

    for i, item in enumerate(objects):
        if not isinstance(item, dict):
            raise DataError("expected an object with the columns as keys", where=locate(i))
    keys = dict.fromkeys(key for item in objects for key in item)
    text_name, *label_name = _find_unique_columns(list(keys), columns, path)
    # A missing key counts as null; the validation of the values reports its location.
    return Rows(
        where=printable(path),
        items=[item.get(text_name) for item in objects],
        labels=[item.get(label_name[0]) if label_name else None for item in objects],
        location=locate,
        notes=() if columns.file_format.encoding else encoding_notes(path, encoding),
    )


def _refuse_separator(path: Path, columns: Columns) -> None:
    if columns.file_format.separator is not None:
        raise DataError(
            f"a {path.suffix} file has no separator", where="data.separator", code="separator-unused"
        )


def _json_array(text: str, path: Path) -> list[Any]:
    try:
        parsed: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(
            f"malformed JSON: {getattr(error, 'msg', error)}", where=f"{printable(path)}:{line}"
        ) from error
    return parsed


def _json_lines(text: str, path: Path) -> tuple[list[Any], list[int]]:
    """Return the objects and their line numbers. Lines end at line feeds only: JSON strings may contain others."""
    objects: list[Any] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            message = f"malformed JSON: {getattr(error, 'msg', error)}"
            hint = "Expected one JSON object per line, or one array of objects."
            raise DataError(message, where=f"{printable(path)}:{number}", hint=hint) from error
        lines.append(number)
    return objects, lines


def _read_parquet(path: Path, columns: Columns) -> Rows:
    """Read the requested columns only, and the label names that `datasets` stores for integer labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _refuse_separator(path, columns)
    if columns.file_format.encoding is not None:
        raise DataError("a parquet file has its own encoding", where="data.encoding", code="encoding-unused")
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = _find_unique_columns(schema.names, columns, path)
            table = file.read(columns=names)
            # Otherwise invalid UTF-8 is found only when the value is converted to a string.
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=printable(path)) from error
    return Rows(
        where=printable(path),
        items=table.column(names[0]).to_pylist(),
        labels=[None] * table.num_rows if columns.label is None else table.column(names[1]).to_pylist(),
        location=lambda i: f"{printable(path)}: row {i}",
        label_names=None if columns.label is None else _class_names(schema.metadata, names[1]),
    )


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Return the `ClassLabel` names in a parquet file's metadata, as `datasets` writes them; None if there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _find_unique_columns(known: list[str], columns: Columns, path: Path) -> list[str]:
    """Return the declared columns by their names in the file; each must exist once."""
    names = find_columns(known, columns, printable(path))
    for name in names:
        if known.count(name) > 1:
            raise DataError(f"two columns are called {name!r}", where=printable(path), code="column-twice")
    return names


def find_columns(known: Sequence[str], columns: Columns, where: str) -> list[str]:
    """Return the declared columns, by their names in the data.

    Raises:
        DataError: a column is missing; names the closest existing one and the key that declares it.
    """
    matches: list[str] = []
    faults = Faults()
    for key, name in columns.named_keys:
        column = find_column(name, known)
        if column is None:
            hint = f"Set `data.{key}`; the columns are: {', '.join(map(repr, known))}."
            if len(known) == 1:
                hint += " If that is one column where there should be several, set `data.separator`."
            message = f"no column {name!r}{nearest(name, known)}"
            faults.add(DataError(message, where=where, hint=hint, code="column-missing"))
        else:
            matches.append(column)
    faults.raise_all()
    return matches


_READERS: Mapping[str, Callable[[Path, Columns], Rows]] = {
    ".csv": partial(_read_separated, default_separator=","),
    ".tsv": partial(_read_separated, default_separator="\t"),
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
