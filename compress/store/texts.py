"""Texts that lie in a file, one after the other, and are read when they are asked for: a sequence of strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from compress.store.flat import Ragged, RaggedWriter, blocks_of


class StoredTexts(Sequence[str]):
    """Some of the texts that were written.

    Args:
        written: of each text its UTF-8, uint8 (length,).
        chosen: int64 (n,), which of them; None: all.
    """

    def __init__(self, written: Ragged, chosen: NDArray[np.int64] | None = None) -> None:
        self._written = written
        self._chosen = np.arange(len(written)) if chosen is None else chosen

    @classmethod
    def of(cls, texts: Iterable[str]) -> StoredTexts:
        """The same texts, taken one by one; few stay in memory, many go to a temporary file."""
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
        """Those at `places`, in that order; nothing is read."""
        return StoredTexts(self._written, self._chosen[np.asarray(places, np.int64)])

    def _read(self, place: np.int64) -> str:
        return self._written[int(place)].tobytes().decode("utf-8", "surrogatepass")


def as_bytes(texts: Iterable[str]) -> list[NDArray[np.uint8]]:
    """Texts as `StoredTexts` keeps them: the UTF-8 of each."""
    return [np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in texts]


def taken(texts: Sequence[str], places: Sequence[int] | NDArray[np.int64]) -> Sequence[str]:
    """The texts at `places`, which stay where they are if they are stored."""
    if isinstance(texts, StoredTexts):
        return texts.take(places)
    return tuple(texts[int(place)] for place in places)


def like(texts: Iterable[str], others: Sequence[object]) -> Sequence[str]:
    """Texts that were made of others: stored where those are."""
    return StoredTexts.of(texts) if isinstance(others, StoredTexts) else tuple(texts)
