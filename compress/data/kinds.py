"""Kinds of examples, texts or images: how each is found, read, validated and deduplicated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.images.pixels import IMAGE_EXTENSIONS, check_images
from compress.data.images.tables import read_image_split, read_image_table
from compress.data.reading.files import read_table
from compress.data.reading.hub import read_split
from compress.data.rows import Columns, FileFormat, Rows
from compress.data.splits import Item
from compress.data.texts import check_texts, read_text_files
from compress.profile.schema import DataSpec


@dataclass(frozen=True)
class ItemKind:
    """One kind of example.

    Attributes:
        extensions: extensions of files that contain one example each.
        may_be_empty: whether an empty file is an example too.
        read_files: returns the contents of such files, and notes.
        read_table: reads a file of many examples.
        read_split: reads a split of a hub data set.
        check: returns the validated items of a split, and for each the key that it shares with its duplicates.
    """

    noun: str
    extensions: tuple[str, ...]
    may_be_empty: bool
    read_files: Callable[[Path, Sequence[Path], FileFormat], tuple[Sequence[object], tuple[str, ...]]]
    read_table: Callable[[Path, Columns], Rows]
    read_split: Callable[[Any, str, Columns], Rows]
    check: Callable[[Rows], tuple[Sequence[Item], list[bytes]]]

    @property
    def file_description(self) -> str:
        """Description of a file with one example, for errors."""
        return (
            ".txt file"
            if self.extensions == (".txt",)
            else f"{self.noun} file ({', '.join(self.extensions)})"
        )

    @property
    def is_image(self) -> bool:
        """Whether the examples are images."""
        return self.extensions == IMAGE_EXTENSIONS

    def is_single_example(self, path: Path) -> bool:
        """Whether a file's extension is that of a file with one example."""
        return path.suffix.lower() in self.extensions


def _paths_as_items(
    folder: Path, paths: Sequence[Path], file_format: FileFormat
) -> tuple[Sequence[object], tuple[str, ...]]:
    return paths, ()


TEXTS = ItemKind("text", (".txt",), True, read_text_files, read_table, read_split, check_texts)
IMAGES = ItemKind(
    "image", IMAGE_EXTENSIONS, False, _paths_as_items, read_image_table, read_image_split, check_images
)


ITEM_KINDS = {kind.noun: kind for kind in (TEXTS, IMAGES)}
"""Kinds of examples by the name that tasks use for them."""


def columns_of(spec: DataSpec, kind: ItemKind, *, labelled: bool = True) -> Columns:
    """Return the columns to read from tables, with the profile keys that name them."""
    label = spec.label_column if labelled else None
    if kind.is_image:
        return Columns(spec.image_column, label, text_key="image_column")
    return Columns(spec.text_column, label)
