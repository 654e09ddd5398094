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

MAX_MEMORY_BYTES = 16 * MIB
"""Number of bytes above which ragged rows are written to a file."""

BLOCK_EXAMPLES = 4096
"""Number of examples per block."""

_BLOCK_VALUES = 1 << 20

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
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self.values.shape[1:]

    def rows(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of the rows at `indices`."""
        return self.values[indices]

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all rows in order, one block at a time."""
        size = max(1, _BLOCK_VALUES // max(1, math.prod(self.row_shape)))
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

    def rows(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of the rows at `indices`; runs of consecutive rows are read in one call."""
        result = np.empty((len(indices), *self.row_shape), self.dtype)
        if result.size:
            for start, stop, first_row in _consecutive_runs(indices):
                self._transfer(os.preadv, result[start:stop], first_row)
        return result

    def write_rows(self, indices: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Write `rows` at `indices`."""
        rows = np.ascontiguousarray(rows, self.dtype)
        if rows.size:
            for start, stop, first_row in _consecutive_runs(indices):
                self._transfer(os.pwritev, rows[start:stop], first_row)

    def flush(self) -> None:
        """Fsync the file."""
        os.fsync(self._descriptor)

    def _transfer(
        self, call: Callable[[int, list[Any], int], int], rows: NDArray[Any], first_row: int
    ) -> None:
        """Read or write rows starting at `first_row`, repeating partial calls, as on a nearly full disk."""
        remaining = rows.reshape(-1).view(np.uint8).data
        position = first_row * self._row_bytes
        while remaining:
            transferred = call(self._descriptor, [remaining], position)
            if transferred == 0:
                raise OSError("the file ends before its rows do")
            remaining, position = remaining[transferred:], position + transferred


def _consecutive_runs(indices: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Return the runs of consecutive `indices`: start and stop of each in `indices`, and its first place."""
    breaks = (np.flatnonzero(np.diff(indices) != 1) + 1).tolist()
    starts = [0, *breaks] if len(indices) else []
    return zip(starts, [*breaks, len(indices)], indices[starts].tolist(), strict=False)


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
            writer.add([np.asarray(example) for example in block])
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
        position = range(len(self))[index]
        return self.flat.rows(np.arange(self.offsets[position], self.offsets[position + 1]))

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
        row_indices, mask = self.row_indices(indices)
        values = np.full((*mask.shape, *self.flat.row_shape), fill, self.flat.dtype)
        values[mask] = self.flat.rows(row_indices)
        return values, mask

    def row_indices(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the indices in `flat` of the examples' rows, concatenated, int64 (rows,), and the mask of the valid
        positions of the padded batch, bool (len(indices), longest)."""
        selected = np.asarray(indices, np.int64)
        starts = self.offsets[selected]
        lengths = self.offsets[selected + 1] - starts
        steps = np.arange(lengths.max(initial=0))
        mask: NDArray[np.bool_] = steps < lengths[:, None]
        return (starts[:, None] + steps)[mask], mask


def blocks_by_characters(texts: Iterable[str], max_characters: int) -> Iterator[list[str]]:
    """Yield the texts in order, in lists that each end once they have at least `max_characters` characters."""
    block, characters = list[str](), 0
    for text in texts:
        block.append(text)
        characters += len(text)
        if characters >= max_characters:
            yield block
            block, characters = [], 0
    if block:
        yield block


def blocks_of(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield the examples in order, in lists of `BLOCK_EXAMPLES`."""
    remaining = iter(examples)
    while block := list(islice(remaining, BLOCK_EXAMPLES)):
        yield block


class RaggedWriter:
    """Collects ragged rows in memory or, above `max_memory_bytes`, in a temporary file removed with the process."""

    def __init__(
        self,
        dtype: DTypeLike = np.int32,
        row_shape: tuple[int, ...] = (),
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._limit = max_memory_bytes
        self._blocks: list[NDArray[Any]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._lengths: list[NDArray[np.int64]] = []

    def add(self, examples: Sequence[Sequence[int] | NDArray[Any]]) -> None:
        """Append examples, each (length, *row)."""
        lengths = np.fromiter(map(len, examples), np.int64, len(examples))
        total = int(lengths.sum())
        if total == 0:
            block: NDArray[Any] = np.zeros((0, *self._row_shape), self.dtype)
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
            for pending in self._blocks:
                self._file.write(pending.tobytes())
            self._blocks = []

    def finish(self) -> Ragged:
        """Return all examples; the writer must not be used afterwards."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        self._lengths = []
        offsets = np.cumsum(lengths, out=lengths)
        shape = (int(offsets[-1]), *self._row_shape)
        if self._file is None:
            blocks = self._blocks or [np.zeros(shape, self.dtype)]
            return Ragged(FlatArray(np.concatenate(blocks)), offsets)
        self._file.flush()
        # The file has no name, so the system frees it with the process.
        with self._file as file:
            return Ragged(FileArray(file, self.dtype, shape), offsets)
