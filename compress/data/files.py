"""csv, tsv, json, json lines and parquet files -> rows.

Python's own csv and json readers are used because they know on which line a row stands, and because they take
every value as it is written: the label `NA` stays a label, and `007` keeps its zeros.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.data.rows import Columns, Rows
from compress.errors import DataError
from compress.profile.faults import did_you_mean

_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_FALLBACKS = ("cp1252", "latin-1")


def is_table(path: Path) -> bool:
    """Whether the file's ending is one that `read_table` knows."""
    return path.suffix.lower() in _READERS


def read_table(path: Path, columns: Columns) -> Rows:
    """The columns of a file; its ending says what kind of file it is.

    Raises:
        DataError: unknown ending, unreadable or malformed file, or a column is missing.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"files ending in {path.suffix!r} are not read; known endings: {', '.join(_READERS)}",
            where=str(path),
        )
    return reader(path, columns)


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error


def decode(raw: bytes, path: Path) -> tuple[str, str]:
    """Text and the encoding it was read as: by its byte order mark, else utf-8, else cp1252, else latin-1.

    Raises:
        DataError: the bytes are not text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding), "utf-8"
            except UnicodeDecodeError as error:
                raise DataError(f"not the {encoding} text it says it is: {error}", where=str(path)) from error
    if b"\0" in raw:
        raise DataError("holds zero bytes: not a text file", where=str(path))
    for encoding in ("utf-8", *_FALLBACKS):
        try:
            return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes every byte")


def _read_separated(path: Path, columns: Columns, delimiter: str) -> Rows:
    """csv and tsv. The first line names the columns; empty lines are skipped."""
    text, encoding = decode(read_bytes(path), path)
    header, rows, lines = _parse_separated(text, path, delimiter)
    _check_columns(header, columns, path)
    text_at = header.index(columns.text)
    label_at = None if columns.label is None else header.index(columns.label)
    notes = () if encoding == "utf-8" else (f"{path.name} is not UTF-8 and was read as {encoding}",)
    return Rows(
        where=str(path),
        texts=[row[text_at] for row in rows],
        labels=[None if label_at is None else row[label_at] for row in rows],
        place=lambda i: f"{path}:{lines[i]}",
        notes=notes,
    )


def _parse_separated(text: str, path: Path, delimiter: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows, and the line each row begins on."""
    rows: list[list[str]] = []
    lines: list[int] = []
    header: list[str] | None = None
    begin = 1
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                line, begin = begin, reader.line_num + 1
                if not row:
                    continue
                if header is None:
                    header = [name.strip() for name in row]
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{len(row)} fields where the header has {len(header)}",
                        where=f"{path}:{line}",
                        hint="A text that holds the separator or a line break must stand in double quotes.",
                    )
                rows.append(row)
                lines.append(line)
        except csv.Error as error:
            opened = "unexpected end of data" in str(error)
            message = "a double quote is opened and never closed" if opened else f"malformed: {error}"
            hint = 'A double quote inside a quoted text is written twice: "".'
            raise DataError(message, where=f"{path}:{begin}", hint=hint) from error
    if header is None:
        raise DataError("the file is empty", where=str(path))
    return header, rows, lines


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB a field while a file is read."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_csv(path: Path, columns: Columns) -> Rows:
    return _read_separated(path, columns, ",")


def _read_tsv(path: Path, columns: Columns) -> Rows:
    return _read_separated(path, columns, "\t")


def _read_json(path: Path, columns: Columns) -> Rows:
    """One JSON array of objects, or one object a line."""
    raw = read_bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError("not UTF-8, which JSON must be", where=f"{path}:{line}") from error
    if not text.strip():
        raise DataError("the file is empty", where=str(path))
    if text.lstrip().startswith("["):
        objects, place = _json_array(text, path), _entry_of(path)
    else:
        objects, lines = _json_lines(text, path)
        place = _line_of(path, lines)
    for i, item in enumerate(objects):
        if not isinstance(item, dict):
            raise DataError("expected an object with the columns as keys", where=place(i))
    known = dict.fromkeys(key for item in objects for key in item)
    _check_columns(list(known), columns, path)
    # A row without the key counts as null: the check of the values says where it stands.
    return Rows(
        where=str(path),
        texts=[item.get(columns.text) for item in objects],
        labels=[None if columns.label is None else item.get(columns.label) for item in objects],
        place=place,
    )


def _json_array(text: str, path: Path) -> list[Any]:
    try:
        parsed: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"malformed JSON: {getattr(error, 'msg', error)}", where=f"{path}:{line}") from error
    return parsed


def _json_lines(text: str, path: Path) -> tuple[list[Any], list[int]]:
    """Objects and the line of each. Lines end at line feeds only: JSON texts may hold other separators."""
    objects: list[Any] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            message = f"malformed JSON: {getattr(error, 'msg', error)}"
            hint = "Expected one JSON object a line, or one array of objects."
            raise DataError(message, where=f"{path}:{number}", hint=hint) from error
        lines.append(number)
    return objects, lines


def _entry_of(path: Path) -> Callable[[int], str]:
    return lambda i: f"{path}: entry {i}"


def _line_of(path: Path, lines: Sequence[int]) -> Callable[[int], str]:
    return lambda i: f"{path}:{lines[i]}"


def _read_parquet(path: Path, columns: Columns) -> Rows:
    """Only the columns asked for are read; names that `datasets` left for numbered labels are taken over."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_columns(schema.names, columns, path)
            table = file.read(columns=columns.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(path)) from error
    return Rows(
        where=str(path),
        texts=table.column(columns.text).to_pylist(),
        labels=[None] * table.num_rows if columns.label is None else table.column(columns.label).to_pylist(),
        place=lambda i: f"{path}: row {i}",
        label_names=None if columns.label is None else _class_names(schema.metadata, columns.label),
    )


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """The `ClassLabel` names in a parquet file's metadata, as `datasets` writes them; None without them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _check_columns(known: list[str], columns: Columns, path: Path) -> None:
    """Each column is there, once."""
    check_columns(known, columns, str(path))
    for name in columns.names:
        if known.count(name) > 1:
            raise DataError(f"two columns are called {name!r}", where=str(path))


def check_columns(known: Sequence[str], columns: Columns, where: str) -> None:
    """Refuse data without the declared columns.

    Raises:
        DataError: a column is missing; names the nearest that is there, and the key that declares it.
    """
    for key, name in columns.keyed:
        if name not in known:
            if len(known) == 1 and any(mark in known[0] for mark in ";,\t|"):
                hint = "Fields of a .csv are separated by commas, those of a .tsv by tabs."
                raise DataError(f"one column only, {known[0]!r}", where=where, hint=hint)
            hint = f"Set `data.{key}`; the columns are: {', '.join(map(repr, known))}."
            raise DataError(f"no column {name!r}{nearest(name, known)}", where=where, hint=hint)


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is near."""
    suggestion = did_you_mean(word, list(known), quote="'")
    return suggestion if "did you mean" in suggestion else ""


_READERS: Mapping[str, Callable[[Path, Columns], Rows]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
