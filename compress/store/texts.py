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

    def __init__(self, encoded: Ragged, selected: NDArray[np.int64] | None = None) -> None:
        self._encoded = encoded
        self._selected = np.arange(len(encoded)) if selected is None else selected

    @classmethod
    def of(cls, texts: Iterable[str]) -> StoredTexts:
        """Store texts, consuming them lazily; small amounts stay in memory, large ones go to a temporary file."""
        writer = RaggedWriter(np.uint8)
        for block in blocks_of(texts):
            writer.add(as_bytes(block))
        return cls(writer.finish())

    def __len__(self) -> int:
        return len(self._selected)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._read(text_index) for text_index in self._selected[index]]
        return self._read(self._selected[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._read, self._selected)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> StoredTexts:
        """Select the texts at `indices`, in that order, without reading them."""
        return StoredTexts(self._encoded, self._selected[np.asarray(indices, np.int64)])

    def _read(self, index: np.int64) -> str:
        return self._encoded[int(index)].tobytes().decode("utf-8", "surrogatepass")


def as_bytes(texts: Iterable[str]) -> list[NDArray[np.uint8]]:
    """Encode texts in the format of `StoredTexts`: UTF-8 bytes, with surrogates passed through."""
    return [np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in texts]


def select_texts(texts: Sequence[str], indices: Sequence[int] | NDArray[np.int64]) -> Sequence[str]:
    """Select the texts at `indices`; stored texts are selected without copying."""
    if isinstance(texts, StoredTexts):
        return texts.take(indices)
    return tuple(texts[int(index)] for index in indices)


def stored_like(texts: Iterable[str], reference: Sequence[object]) -> Sequence[str]:
    """Store `texts` as `StoredTexts` if `reference` are, else return a tuple."""
    return StoredTexts.of(texts) if isinstance(reference, StoredTexts) else tuple(texts)
