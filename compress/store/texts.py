"""Sequences of strings that are stored concatenated, in memory or in a file, and decoded on access."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from compress.store.flat import Ragged, RaggedWriter, blocks_of


class StoredTexts(Sequence[str]):
    """A selection of stored texts.

    Args:
        written: the UTF-8 bytes of each text, uint8 (length,).
        chosen: indices of the selected texts, int64 (n,); None selects all.
    """

    def __init__(self, written: Ragged, chosen: NDArray[np.int64] | None = None) -> None:
        self._written = written
        self._chosen = np.arange(len(written)) if chosen is None else chosen

    @classmethod
    def of(cls, texts: Iterable[str]) -> StoredTexts:
        """Store texts, consuming them lazily; small amounts stay in memory, large ones go to a temporary file."""
        writer = RaggedWriter(np.uint8)
        for block in blocks_of(texts):
            writer.add(as_bytes(block))
        return cls(writer.finish())

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._read(place) for place in self._chosen[index]]
        return self._read(self._chosen[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._read, self._chosen)

    def take(self, places: Sequence[int] | NDArray[np.int64]) -> StoredTexts:
        """Select the texts at `places`, in that order, without reading them."""
        return StoredTexts(self._written, self._chosen[np.asarray(places, np.int64)])

    def _read(self, place: np.int64) -> str:
        return self._written[int(place)].tobytes().decode("utf-8", "surrogatepass")


def as_bytes(texts: Iterable[str]) -> list[NDArray[np.uint8]]:
    """Encode texts in the format of `StoredTexts`: UTF-8 bytes, with surrogates passed through."""
    return [np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in texts]


def taken(texts: Sequence[str], places: Sequence[int] | NDArray[np.int64]) -> Sequence[str]:
    """Select the texts at `places`; stored texts are selected without copying."""
    if isinstance(texts, StoredTexts):
        return texts.take(places)
    return tuple(texts[int(place)] for place in places)


def like(texts: Iterable[str], others: Sequence[object]) -> Sequence[str]:
    """Store `texts` as `StoredTexts` if `others` are, else return a tuple."""
    return StoredTexts.of(texts) if isinstance(others, StoredTexts) else tuple(texts)
