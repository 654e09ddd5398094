"""Read text files with one example each, and validate texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.core.errors import DataError
from compress.data.faults import map_all
from compress.data.names import printable
from compress.data.reading.encodings import UTF_8, decode_all
from compress.data.reading.files import read_bytes
from compress.data.reading.large import read_large_texts
from compress.data.rows import FileFormat, Rows
from compress.data.splitting import text_key
from compress.store.texts import StoredTexts


def read_text_files(
    folder: Path, paths: Sequence[Path], file_format: FileFormat
) -> tuple[Sequence[object], tuple[str, ...]]:
    """Return the texts of files, and a note on those that are not UTF-8.

    Raises:
        DataError: a file cannot be read as text.
    """
    if file_format.encoding is None and (stored := read_large_texts(paths)) is not None:
        return stored, ()
    decoded = decode_all(map_all(read_bytes, paths), paths, file_format.encoding)
    non_utf_8 = [
        (path, encoding) for path, (_, encoding) in zip(paths, decoded, strict=True) if encoding != UTF_8
    ]
    notes: tuple[str, ...] = ()
    if non_utf_8 and file_format.encoding is None:
        first = printable(non_utf_8[0][0].relative_to(folder))
        encodings = " or ".join(sorted({encoding for _, encoding in non_utf_8}))
        count = "1 text file is" if len(non_utf_8) == 1 else f"{len(non_utf_8)} text files are"
        notes = (
            f"{count} not UTF-8 and read as {encodings}; the first is {first}; `data.encoding` overrides this",
        )
    return [text for text, _ in decoded], notes


def check_texts(rows: Rows) -> tuple[Sequence[str], list[bytes]]:
    """Return the texts of a split and the key of each.

    Raises:
        DataError: a text is missing, blank, not a string, or not valid Unicode.
    """
    keys = map_all(lambda i, value: text_key(_check_text(value, rows, i)), range(len(rows)), rows.items)
    return rows.items if isinstance(rows.items, StoredTexts) else tuple(map(str, rows.items)), keys


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: it has no unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_missing(value: object) -> bool:
    """Whether a value is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def describe(value: Any) -> str:
    """Describe a value and its type in words, for errors."""
    value_repr = repr(value)
    type_words = {
        int: "a number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "an object",
    }
    return (
        f"{type_words.get(type(value), type(value).__name__)}: "
        f"{value_repr if len(value_repr) <= 40 else value_repr[:37] + '...'}"
    )


def _check_text(value: object, rows: Rows, i: int) -> str:
    if isinstance(value, str):
        if value.isspace() or not value:
            raise DataError("the text is blank", where=rows.location(i), code="text-blank")
        if not is_unicode(value):
            message = "the text contains half a surrogate pair: not valid Unicode"
            raise DataError(message, where=rows.location(i), code="text-unicode")
        return value
    if is_missing(value):
        raise DataError("the text is missing", where=rows.location(i), code="text-missing")
    raise DataError(
        f"the text is {describe(value)}",
        where=rows.location(i),
        hint="Is `data.text_column` the right column?",
        code="text-type",
    )
