"""What names of splits, labels, columns and files stand for, however they are written: case, Unicode form, bytes."""

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


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), as most keyboards write it and macOS does not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """What names share that differ in case or Unicode form only."""
    return composed(composed(name).casefold())


def shown(path: Path | str) -> str:
    """A path as text that can be printed: bytes of a name that are not UTF-8 stand as `\\xe9`."""
    text = str(path)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def is_split(name: str, further: Iterable[str] = ()) -> bool:
    """Whether a file or folder of this name holds a split and no class: by the usual names, or by `further` ones."""
    return folded(name) in {*(alias for every in _ALIASES.values() for alias in every), *map(folded, further)}


def named_split(name: str, known: Iterable[str], where: str) -> str | None:
    """The split among `known` that is meant by `name`; None without one.

    The very name comes first, then one that differs in case or Unicode form, then a usual name of the same role
    (`val` for `validation`).

    Raises:
        DataError: several could be meant.
    """
    splits = list(known)
    if name in splits:
        return name
    role = next((role for role, aliases in _ALIASES.items() if folded(name) in aliases), None)
    for wanted in ((folded(name),), _ALIASES.get(role or "", ())):
        found = [split for split in splits if folded(split) in wanted]
        if len(found) > 1:
            raise DataError(
                f"{found[0]!r} and {found[1]!r} could both be the {name} split",
                where=where,
                hint=f"Name one as `data.splits.{role or TRAIN}`.",
                code="split-ambiguous",
            )
        if found:
            return found[0]
    return None


def column_named(name: str, known: Iterable[str]) -> str | None:
    """The column that is called so, in whichever Unicode form; None without one."""
    columns = list(known)
    if name in columns:
        return name
    return next((column for column in columns if composed(column) == composed(name)), None)
