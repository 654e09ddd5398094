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
MAX_TEXTS_READ = 10_000
"""Number of text files in a split up to which all are opened."""


def with_sampling(kind: ItemKind) -> ItemKind:
    """Return the kind with only some files opened, evenly spaced; the other files are represented by their names."""
    if kind.is_image:
        return replace(kind, check=partial(_check_sample, kind))
    return replace(kind, read_files=partial(_read_sample, kind))


def sample_indices(count: int) -> list[int]:
    """Return the indices of the files to open, out of `count`."""
    step = max(1, -(-count // SAMPLE_SIZE))
    return list(range(0, count, step))


def _check_sample(kind: ItemKind, rows: Rows) -> tuple[tuple[Item, ...], list[bytes]]:
    indices = sample_indices(len(rows))
    sample = replace(
        rows,
        items=[rows.items[index] for index in indices],
        labels=[rows.labels[index] for index in indices],
        location=lambda i: rows.location(indices[i]),
    )
    _, keys = kind.check(sample)
    all_keys = [str(index).encode() for index in range(len(rows))]
    for index, key in zip(indices, keys, strict=True):
        all_keys[index] = key
    return tuple(rows.items), all_keys  # type: ignore[arg-type] # (the kind has checked what they are)


def _read_sample(
    kind: ItemKind, folder: Path, paths: Sequence[Path], file_format: FileFormat
) -> tuple[Sequence[object], tuple[str, ...]]:
    if len(paths) <= MAX_TEXTS_READ:
        return kind.read_files(folder, paths, file_format)
    indices = sample_indices(len(paths))
    contents, notes = kind.read_files(folder, [paths[index] for index in indices], file_format)
    values: list[object] = [str(path) for path in paths]
    for index, value in zip(indices, contents, strict=True):
        values[index] = value
    return values, (*notes, f"{len(indices)} of {len(paths)} text files were opened")
