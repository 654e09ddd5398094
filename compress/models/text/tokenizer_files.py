"""Opening a `tokenizer.json` from any source."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from compress.core.disk.reading import content_errors, parse_json, read_limited
from compress.core.errors import ModelError


def open_tokenizer(file: Path) -> Tokenizer:
    """Open the tokenizer of a `tokenizer.json`.

    Raises:
        ModelError: the file is missing or not a tokenizer.
    """
    try:
        text = read_limited(file).decode("utf-8")
        parse_json(text, str(file))
        with content_errors("the tokenizer", str(file)):
            return Tokenizer.from_str(text)
    except ModelError:
        raise
    except Exception as error:
        # tokenizers raises bare `Exception` for a file that it cannot parse.
        raise ModelError(f"cannot read the tokenizer: {error}", where=str(file)) from error


def open_without_truncation(file: Path) -> Tokenizer:
    """Open the tokenizer of a `tokenizer.json` with truncation and padding disabled, whatever the file says.

    Raises:
        ModelError: the file is missing or not a tokenizer.
    """
    tokenizer = open_tokenizer(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
