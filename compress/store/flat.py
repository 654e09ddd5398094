"""Large arrays with access to a few rows at a time, in memory or in a file, and ragged arrays on top of them."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from compress.core.units import MIB

IN_MEMORY = 16 * MIB
"""Number of bytes above which ragged rows are written to a file."""

AT_A_TIME = 4096
"""Number of examples per block."""

_BLOCK = 1 << 20

Example = TypeVar("Example")


class FlatArray:
    """An array (n, *row) in memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        return self.values.dtype

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self.values.shape[1:]

    def rows(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of the rows at `places`."""
        return self.values[places]

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all rows in order, one block at a time."""
        size = max(1, _BLOCK // max(1, math.prod(self.row)))
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))


class FileArray(FlatArray):
    """An array (n, *row) in a file without a header.

    `values` is the whole array, memory-mapped and read-only. Rows are read and written with system calls instead: a
    page fault costs more than a call and keeps the surrounding pages resident, so memory would grow with the file.
    """

    def __init__(
        self, file: Path | IO[bytes], dtype: DTypeLike, shape: tuple[int, ...], *, writable: bool = False
    ) -> None:
        if isinstance(file, Path):
            self._descriptor = os.open(file, os.O_RDWR if writable else os.O_RDONLY)
        else:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        empty = math.prod(shape) == 0
        with os.fdopen(self._descriptor, "rb", closefd=False) as stream:
            mapped = np.zeros(shape, dtype) if empty else np.memmap(stream, dtype, "r", shape=shape)
        super().__init__(mapped)
        self._row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize

    def rows(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of the rows at `places`; runs of consecutive rows are read in one call."""
        found = np.empty((len(places), *self.row), self.dtype)
        if found.size:
            for start, stop, place in _runs(places):
                self._move(os.preadv, found[start:stop], place)
        return found

    def put(self, places: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Write `rows` at `places`."""
        rows = np.ascontiguousarray(rows, self.dtype)
        if rows.size:
            for start, stop, place in _runs(places):
                self._move(os.pwritev, rows[start:stop], place)

    def flush(self) -> None:
        """Fsync the file."""
        os.fsync(self._descriptor)

    def _move(self, call: Callable[[int, list[Any], int], int], rows: NDArray[Any], place: int) -> None:
        """Read or write rows starting at `place`, repeating partial calls, as on a nearly full disk."""
        left = rows.reshape(-1).view(np.uint8).data
        position = place * self._row_bytes
        while left:
            moved = call(self._descriptor, [left], position)
            if moved == 0:
                raise OSError("the file ends before its rows do")
            left, position = left[moved:], position + moved


def _runs(places: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Return the runs of consecutive `places`: start and stop of each in `places`, and its first place."""
    breaks = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    starts = [0, *breaks] if len(places) else []
    return zip(starts, [*breaks, len(places)], places[starts].tolist(), strict=False)


class Ragged(Sequence[NDArray[Any]]):
    """Examples of different lengths, concatenated: example i is `flat[offsets[i]:offsets[i + 1]]`.

    Args:
        flat: (total, *row).
        offsets: int64 (n + 1,), increasing from 0 to total.
    """

    def __init__(self, flat: FlatArray, offsets: NDArray[np.int64]) -> None:
        self.flat = flat
        self.offsets = offsets

    @classmethod
    def of(cls, examples: Iterable[ArrayLike], dtype: DTypeLike = np.int32) -> Ragged:
        """Concatenate examples, consuming them lazily."""
        writer = RaggedWriter(dtype)
        for block in blocks_of(examples):
            writer.add([np.asarray(one) for one in block])
        return writer.finish()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[Any]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | list[NDArray[Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.flat.rows(np.arange(self.offsets[place], self.offsets[place + 1]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Lengths of the examples, int64 (n,)."""
        return np.diff(self.offsets)

    def padded(
        self, indices: Sequence[int] | NDArray[np.int64], fill: float = 0
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the examples at `indices`, padded with `fill` to the longest of them.

        Returns:
            The values (len(indices), longest, *row), and the mask of valid positions, bool (len(indices), longest).
        """
        places, present = self.places(indices)
        values = np.full((*present.shape, *self.flat.row), fill, self.flat.dtype)
        values[present] = self.flat.rows(places)
        return values, present

    def places(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the indices in `flat` of the examples' rows, concatenated, int64 (rows,), and the mask of the valid
        positions of the padded batch, bool (len(indices), longest)."""
        chosen = np.asarray(indices, np.int64)
        starts = self.offsets[chosen]
        lengths = self.offsets[chosen + 1] - starts
        steps = np.arange(lengths.max(initial=0))
        present: NDArray[np.bool_] = steps < lengths[:, None]
        return (starts[:, None] + steps)[present], present


def blocks_by_characters(texts: Iterable[str], most: int) -> Iterator[list[str]]:
    """Yield the texts in order, in lists that each end once they have at least `most` characters."""
    block, letters = list[str](), 0
    for text in texts:
        block.append(text)
        letters += len(text)
        if letters >= most:
            yield block
            block, letters = [], 0
    if block:
        yield block


def blocks_of(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield the examples in order, in lists of `AT_A_TIME`."""
    waiting = iter(examples)
    while block := list(islice(waiting, AT_A_TIME)):
        yield block


class RaggedWriter:
    """Collects ragged rows in memory or, above `in_memory` bytes, in a temporary file removed with the process."""

    def __init__(
        self, dtype: DTypeLike = np.int32, row: tuple[int, ...] = (), in_memory: int = IN_MEMORY
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._row = row
        self._limit = in_memory
        self._blocks: list[NDArray[Any]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._lengths: list[NDArray[np.int64]] = []

    def add(self, examples: Sequence[Sequence[int] | NDArray[Any]]) -> None:
        """Append examples, each (length, *row)."""
        lengths = np.fromiter(map(len, examples), np.int64, len(examples))
        total = int(lengths.sum())
        if total == 0:
            block: NDArray[Any] = np.zeros((0, *self._row), self.dtype)
        elif isinstance(examples[0], np.ndarray):
            block = np.concatenate(examples).astype(self.dtype, copy=False)
        else:
            block = np.fromiter(chain.from_iterable(examples), self.dtype, total)
        self._lengths.append(lengths)
        self._bytes += block.nbytes
        if self._file is not None:
            self._file.write(block.tobytes())
            return
        self._blocks.append(block)
        if self._bytes > self._limit:
            self._file = tempfile.TemporaryFile(prefix="compress-")  # noqa: SIM115 (closed by `finish`)
            for waiting in self._blocks:
                self._file.write(waiting.tobytes())
            self._blocks = []

    def finish(self) -> Ragged:
        """Return all examples; the writer must not be used afterwards."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        self._lengths = []
        offsets = np.cumsum(lengths, out=lengths)
        shape = (int(offsets[-1]), *self._row)
        if self._file is None:
            blocks = self._blocks or [np.zeros(shape, self.dtype)]
            return Ragged(FlatArray(np.concatenate(blocks)), offsets)
        self._file.flush()
        # The file has no name, so the system frees it with the process.
        with self._file as file:
            return Ragged(FileArray(file, self.dtype, shape), offsets)
