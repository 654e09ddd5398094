"""Examples and their three splits: the interface of the data to the rest of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.store.texts import StoredTexts

UNLABELLED = -1
"""Label index of an example without a label."""


@dataclass(frozen=True)
class StoredImage:
    """An encoded image in a row of a memory-mapped `datasets` table: read on demand and not cached."""

    table: Any
    row: int
    column: str

    def read(self) -> bytes:
        """Return the encoded bytes of the image.

        Raises:
            DataError: the row has no image.
        """
        value = self.table[self.row][self.column]
        raw = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(raw, bytes):
            raise DataError(f"row {self.row} of the column {self.column!r} has no image")
        return raw


Item = str | Path | NDArray[np.uint8] | StoredImage
"""A text, an image file, an image's pixels (height, width) or (height, width, channels), or a stored image."""


@dataclass(frozen=True)
class Examples:
    """Texts or images with their label indices.

    Attributes:
        labels: int64 (n,), indices into the label names of the data; -1 without a label.
        scores: float32 (n // 2,), the given similarity of items 2i and 2i + 1, if the data consists of pairs.
    """

    items: Sequence[Item]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.items),):
            raise ValueError(f"{len(self.items)} items, but labels of shape {self.labels.shape}")
        if self.scores is not None and 2 * len(self.scores) != len(self.items):
            raise ValueError(f"{len(self.items)} items of pairs, but {len(self.scores)} scores")

    @classmethod
    def unlabelled(cls, items: Sequence[Item]) -> Examples:
        """Return examples without labels."""
        return cls(items, np.full(len(items), UNLABELLED, np.int64))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def texts(self) -> Sequence[str]:
        """The items as texts.

        Raises:
            TypeError: they are images.
        """
        if len(self.items) and not isinstance(self.items[0], str):
            raise TypeError("these examples are images, not texts")
        return self.items  # type: ignore[return-value]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Return the examples at `indices`, in that order, without scores."""
        positions, items = np.asarray(indices, np.int64), self.items
        selected = (
            items.take(positions)
            if isinstance(items, StoredTexts)
            else tuple(items[i] for i in positions.tolist())
        )
        return Examples(selected, self.labels[positions])


def item_content(item: Item) -> bytes:
    """Return bytes that identify an item: a text's UTF-8, an image file's bytes, or an array's shape and pixels."""
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    if isinstance(item, Path):
        return item.read_bytes()
    if isinstance(item, StoredImage):
        return item.read()
    return repr(item.shape).encode() + item.tobytes()


@dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
        labels: the label names by index; empty if the task has no labels.
        unlabeled: further examples for the teacher to label, none of which is in validation or test.
        notes: what loading changed that the user may not expect (dropped duplicates, a detected encoding), one sentence
            each, for the report.
    """

    train: Examples
    validation: Examples
    test: Examples
    labels: tuple[str, ...]
    unlabeled: Examples | None = None
    notes: tuple[str, ...] = ()
