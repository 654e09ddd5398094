"""Matching of split, label, column and file names across case, Unicode forms and undecodable bytes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from compress.core.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_ALIASES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev", "eval"),
    TEST: ("test", "testing"),
}


def to_nfc(name: str) -> str:
    """Return the name in Unicode's composed form (NFC), as most keyboards write it and macOS does not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def fold_name(name: str) -> str:
    """Return a form of the name that ignores case and Unicode form."""
    return to_nfc(to_nfc(name).casefold())


def printable(path: Path | str) -> str:
    """Return a path as printable text: bytes that are not UTF-8 are escaped as `\\xe9`."""
    text = str(path)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def is_split(name: str, extra: Iterable[str] = ()) -> bool:
    """Whether a file or folder of this name is a split rather than a class: a usual split name, or one of `extra`."""
    return fold_name(name) in {
        *(alias for aliases in _ALIASES.values() for alias in aliases),
        *map(fold_name, extra),
    }


def find_split(name: str, known: Iterable[str], where: str) -> str | None:
    """Return the split among `known` that `name` refers to; None if there is none.

    An exact match takes precedence, then one that differs in case or Unicode form, then a usual name of the same role
    (`val` for `validation`).

    Raises:
        DataError: the name is ambiguous.
    """
    splits = list(known)
    if name in splits:
        return name
    role = next((role for role, aliases in _ALIASES.items() if fold_name(name) in aliases), None)
    for accepted in ((fold_name(name),), _ALIASES.get(role or "", ())):
        matches = [split for split in splits if fold_name(split) in accepted]
        if len(matches) > 1:
            raise DataError(
                f"{matches[0]!r} and {matches[1]!r} could both be the {name} split",
                where=where,
                hint=f"Name one as `data.splits.{role or TRAIN}`.",
                code="split-ambiguous",
            )
        if matches:
            return matches[0]
    return None


def find_column(name: str, known: Iterable[str]) -> str | None:
    """Return the column with this name in any Unicode form; None if there is none."""
    columns = list(known)
    if name in columns:
        return name
    return next((column for column in columns if to_nfc(column) == to_nfc(name)), None)
