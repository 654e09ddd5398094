"""A cached teacher signal on fixed inputs: a memory-mapped file of rows without padding, written in chunks."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.core.disk.files import (
    DamagedFileError,
    allocate,
    file_entry,
    first_damaged,
    publish,
    read_sealed,
    write_sealed,
)
from compress.core.errors import PassError
from compress.store.checking import LAYOUT_SUFFIX
from compress.store.flat import FileArray, FlatArray, Ragged

Digest = Any
"""A hashlib hash object, for which there is no public type."""
_EMPTY_DIGEST = hashlib.sha256().hexdigest()
_HASH_EXAMPLES = 256


@dataclass(frozen=True)
class Layout:
    """Layout of a signal on disk.

    `row`: shape of the values of one example, or of one token if it is `ragged`.
    """

    dtype: Literal["float16", "float32", "uint8"]
    row: tuple[int, ...]
    ragged: bool

    def shape(self, offsets: NDArray[np.int64]) -> tuple[int, ...]:
        """Return the shape of the file for inputs whose tokens begin at `offsets` (n + 1,)."""
        return (int(offsets[-1]) if self.ragged else len(offsets) - 1, *self.row)

    def bytes(self, offsets: NDArray[np.int64]) -> int:
        """Return the size of that file in bytes."""
        return math.prod(self.shape(offsets)) * np.dtype(self.dtype).itemsize


class TooLarge(Exception):
    """A finite value of the named signal overflows float16."""


class StoredSignal:
    """A complete cached signal.

    Args:
        values: (n, *row), or (tokens, *row) where `offsets` delimit the tokens of each example.
        offsets: int64 (n + 1,); None: one row per example.
    """

    def __init__(self, values: FlatArray, offsets: NDArray[np.int64] | None) -> None:
        self.values = values
        self._ragged = None if offsets is None else Ragged(values, offsets)

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the rows at `indices` in the stored dtype, (n, *row) or zero-padded (n, longest, *row)."""
        rows = self.values.rows(indices) if self._ragged is None else self._ragged.padded(indices)[0]
        return torch.from_numpy(rows)


def open_signal(folder: Path, name: str, offsets: NDArray[np.int64]) -> StoredSignal | None:
    """Open the named signal after verifying its checksum; None if it is incomplete or damaged."""
    path, metadata = _path(folder, name, "bin"), _read_metadata(folder, name)
    if metadata is None or not metadata.files or first_damaged(folder, metadata.files) is not None:
        return None
    layout = metadata.layout
    if path.stat().st_size != layout.bytes(offsets):
        return None
    values = FileArray(path, layout.dtype, layout.shape(offsets))
    return StoredSignal(values, offsets if layout.ragged else None)


class SignalWriter:
    """Writes the file of one signal; progress recorded by `record` survives a kill.

    Args:
        layout: layout on disk. A float16 signal in which a value overflowed continues in float32.
    """

    def __init__(self, folder: Path, name: str, layout: Layout, offsets: NDArray[np.int64]) -> None:
        self.name = name
        self._folder = folder
        self._offsets = offsets
        self._partial = _path(folder, name, "part")
        metadata = _read_metadata(folder, name)
        partial_size = self._partial.stat().st_size if self._partial.exists() else None
        if metadata is None or partial_size != metadata.layout.bytes(offsets):
            metadata = _Metadata(layout)
        self.layout, self._metadata = metadata.layout, metadata
        # Over the rows written so far, in writing order.
        self._digest = hashlib.sha256()
        if metadata.num_done == 0:
            self._allocate()
        self._values = FileArray(self._partial, self.layout.dtype, self.layout.shape(offsets), writable=True)

    def done(self, order: NDArray[np.int64]) -> int:
        """Return how many examples of this writing order are intact on disk."""
        if self._digest_of(order[: self._metadata.num_done]).hexdigest() != self._metadata.rows_digest:
            return 0
        return self._metadata.num_done

    def resume(self, order: NDArray[np.int64], done: int) -> None:
        """Continue writing after `done` examples."""
        self._digest = self._digest_of(order[:done])

    def write(self, indices: NDArray[np.int64], signal: Tensor) -> None:
        """Write the signal of a batch, (n, *row) or padded (n, longest, *row), for the examples at `indices`.

        Raises:
            TooLarge: a value overflows the dtype; the file has to be rewritten in float32.
            PassError: the teacher returned a value that is not finite.
        """
        converted = signal.detach().to(getattr(torch, self.layout.dtype))
        if self.layout.dtype != "uint8" and not torch.isfinite(converted).all():
            if not torch.isfinite(signal).all():
                raise PassError(f"the teacher's {self.name} is not finite", hint="Try `precision: fp32`.")
            raise TooLarge(self.name)
        rows = converted.cpu().numpy()
        if self.layout.ragged:
            positions, present = Ragged(self._values, self._offsets).row_indices(indices)
            rows = rows[present]
        else:
            positions = indices
        self._values.write_rows(positions, rows)
        self._digest.update(np.ascontiguousarray(rows).tobytes())

    def restart_in_float32(self) -> None:
        """Start over in float32."""
        self.layout = Layout("float32", self.layout.row, self.layout.ragged)
        self._allocate()
        self._values = FileArray(
            self._partial, self.layout.dtype, self.layout.shape(self._offsets), writable=True
        )

    def record(self, done: int) -> None:
        """Record that `done` examples, in writing order, are on disk."""
        self._values.flush()
        self._metadata = _Metadata(self.layout, done, self._digest.hexdigest())
        _write_metadata(self._folder, self.name, self._metadata)

    def finish(self) -> None:
        """Rename the complete file to its final name."""
        self._values.flush()
        final = _path(self._folder, self.name, "bin")
        metadata = replace(self._metadata, files={final.name: file_entry(self._partial)})
        _write_metadata(self._folder, self.name, metadata)
        publish(self._partial, final)

    def _digest_of(self, indices: NDArray[np.int64]) -> Digest:
        """Hash the rows of these examples, in order."""
        digest = hashlib.sha256()
        for start in range(0, len(indices), _HASH_EXAMPLES):
            chunk = indices[start : start + _HASH_EXAMPLES]
            positions = (
                Ragged(self._values, self._offsets).row_indices(chunk)[0] if self.layout.ragged else chunk
            )
            digest.update(self._values.rows(positions).tobytes())
        return digest

    def _allocate(self) -> None:
        allocate(self._partial, self.layout.bytes(self._offsets))
        self._digest, self._metadata = hashlib.sha256(), _Metadata(self.layout)
        _write_metadata(self._folder, self.name, self._metadata)


def _path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f"{quote(name, safe='')}.{suffix}"


@dataclass(frozen=True)
class _Metadata:
    """The metadata of a signal.

    `rows_digest`: sha256 of the rows of the `num_done` examples, in writing order; `files`: checksums of the finished
    file.
    """

    layout: Layout
    num_done: int = 0
    rows_digest: str = _EMPTY_DIGEST
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def _read_metadata(folder: Path, name: str) -> _Metadata | None:
    """Read the metadata of a signal; None if there is none or it is damaged."""
    try:
        body = read_sealed(_path(folder, name, LAYOUT_SUFFIX))
        layout = Layout(body["dtype"], tuple(body["row"]), body["ragged"])
        return _Metadata(layout, body["done"], body["written"], body["files"])
    except (FileNotFoundError, DamagedFileError, KeyError):
        return None


def _write_metadata(folder: Path, name: str, metadata: _Metadata) -> None:
    progress = {"done": metadata.num_done, "written": metadata.rows_digest, "files": metadata.files}
    write_sealed(_path(folder, name, LAYOUT_SUFFIX), {**asdict(metadata.layout), **progress})
