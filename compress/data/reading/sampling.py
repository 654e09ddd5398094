"""Inspect data without opening every file: read all names and tables, but only some of the single-example files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from compress.data.kinds import ItemKind
from compress.data.rows import FileFormat, Rows
from compress.data.splits import Item

SAMPLE_SIZE = 200
"""Approximate number of files opened in a split, if not all are."""
MOST_TEXTS = 10_000
"""Number of text files in a split up to which all are opened."""


def sampled(kind: ItemKind) -> ItemKind:
    """Return the kind with only some files opened, evenly spaced; the other files are represented by their names."""
    if kind.of_images:
        return replace(kind, check=partial(_check_some, kind))
    return replace(kind, read_files=partial(_read_some, kind))


def evenly_spaced(count: int) -> list[int]:
    """Return the indices of the files to open, out of `count`."""
    step = max(1, -(-count // SAMPLE_SIZE))
    return list(range(0, count, step))


def _check_some(kind: ItemKind, rows: Rows) -> tuple[tuple[Item, ...], list[bytes]]:
    places = evenly_spaced(len(rows))
    some = replace(
        rows,
        texts=[rows.texts[place] for place in places],
        labels=[rows.labels[place] for place in places],
        place=lambda i: rows.place(places[i]),
    )
    _, keys = kind.check(some)
    every = [str(place).encode() for place in range(len(rows))]
    for place, key in zip(places, keys, strict=True):
        every[place] = key
    return tuple(rows.texts), every  # type: ignore[arg-type]


def _read_some(
    kind: ItemKind, folder: Path, paths: Sequence[Path], written: FileFormat
) -> tuple[Sequence[object], tuple[str, ...]]:
    if len(paths) <= MOST_TEXTS:
        return kind.read_files(folder, paths, written)
    places = evenly_spaced(len(paths))
    read, notes = kind.read_files(folder, [paths[place] for place in places], written)
    values: list[object] = [str(path) for path in paths]
    for place, value in zip(places, read, strict=True):
        values[place] = value
    return values, (*notes, f"{len(places)} of {len(paths)} text files were opened")
