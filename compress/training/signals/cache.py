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
    Damaged,
    allocate,
    entry_of,
    first_damaged,
    publish,
    read_sealed,
    write_sealed,
)
from compress.core.errors import PassError
from compress.store.checking import LAYOUT
from compress.store.flat import FileArray, FlatArray, Ragged

Digest = Any
"""A hashlib hash object, for which there is no public type."""
_NOTHING = hashlib.sha256().hexdigest()
_AT_A_TIME = 256


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
    path, noted = _path(folder, name, "bin"), _read(folder, name)
    if noted is None or not noted.files or first_damaged(folder, noted.files) is not None:
        return None
    layout = noted.layout
    if path.stat().st_size != layout.bytes(offsets):
        return None
    values = FileArray(path, layout.dtype, layout.shape(offsets))
    return StoredSignal(values, offsets if layout.ragged else None)


class SignalWriter:
    """Writes the file of one signal; progress recorded by `note` survives a kill.

    Args:
        layout: layout on disk. A float16 signal in which a value overflowed continues in float32.
    """

    def __init__(self, folder: Path, name: str, layout: Layout, offsets: NDArray[np.int64]) -> None:
        self.name = name
        self._folder = folder
        self._offsets = offsets
        self._partial = _path(folder, name, "part")
        noted = _read(folder, name)
        there = self._partial.stat().st_size if self._partial.exists() else None
        if noted is None or there != noted.layout.bytes(offsets):
            noted = _Noted(layout)
        self.layout, self._noted = noted.layout, noted
        # Over the rows written so far, in writing order.
        self._digest = hashlib.sha256()
        if noted.done == 0:
            self._allocate()
        self._values = FileArray(self._partial, self.layout.dtype, self.layout.shape(offsets), writable=True)

    def done(self, order: NDArray[np.int64]) -> int:
        """Return how many examples of this writing order are intact on disk."""
        if self._digest_of(order[: self._noted.done]).hexdigest() != self._noted.written:
            return 0
        return self._noted.done

    def go_on(self, order: NDArray[np.int64], done: int) -> None:
        """Continue writing after `done` examples."""
        self._digest = self._digest_of(order[:done])

    def put(self, indices: NDArray[np.int64], signal: Tensor) -> None:
        """Write the signal of a batch, (n, *row) or padded (n, longest, *row), for the examples at `indices`.

        Raises:
            TooLarge: a value overflows the dtype; the file has to be rewritten in float32.
            PassError: the teacher returned a value that is not finite.
        """
        kept = signal.detach().to(getattr(torch, self.layout.dtype))
        if self.layout.dtype != "uint8" and not torch.isfinite(kept).all():
            if not torch.isfinite(signal).all():
                raise PassError(f"the teacher's {self.name} is not finite", hint="Try `precision: fp32`.")
            raise TooLarge(self.name)
        rows = kept.cpu().numpy()
        if self.layout.ragged:
            places, present = Ragged(self._values, self._offsets).places(indices)
            rows = rows[present]
        else:
            places = indices
        self._values.put(places, rows)
        self._digest.update(np.ascontiguousarray(rows).tobytes())

    def widen(self) -> None:
        """Start over in float32."""
        self.layout = Layout("float32", self.layout.row, self.layout.ragged)
        self._allocate()
        self._values = FileArray(
            self._partial, self.layout.dtype, self.layout.shape(self._offsets), writable=True
        )

    def note(self, done: int) -> None:
        """Record that `done` examples, in writing order, are on disk."""
        self._values.flush()
        self._noted = _Noted(self.layout, done, self._digest.hexdigest())
        _write(self._folder, self.name, self._noted)

    def finish(self) -> None:
        """Rename the complete file to its final name."""
        self._values.flush()
        final = _path(self._folder, self.name, "bin")
        noted = replace(self._noted, files={final.name: entry_of(self._partial)})
        _write(self._folder, self.name, noted)
        publish(self._partial, final)

    def _digest_of(self, indices: NDArray[np.int64]) -> Digest:
        """Hash the rows of these examples, in order."""
        digest = hashlib.sha256()
        for start in range(0, len(indices), _AT_A_TIME):
            some = indices[start : start + _AT_A_TIME]
            places = Ragged(self._values, self._offsets).places(some)[0] if self.layout.ragged else some
            digest.update(self._values.rows(places).tobytes())
        return digest

    def _allocate(self) -> None:
        allocate(self._partial, self.layout.bytes(self._offsets))
        self._digest, self._noted = hashlib.sha256(), _Noted(self.layout)
        _write(self._folder, self.name, self._noted)


def _path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f"{quote(name, safe='')}.{suffix}"


@dataclass(frozen=True)
class _Noted:
    """The metadata of a signal.

    `written`: sha256 of the rows of the `done` examples, in writing order; `files`: checksums of the finished file.
    """

    layout: Layout
    done: int = 0
    written: str = _NOTHING
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def _read(folder: Path, name: str) -> _Noted | None:
    """Read the metadata of a signal; None if there is none or it is damaged."""
    try:
        body = read_sealed(_path(folder, name, LAYOUT))
        layout = Layout(body["dtype"], tuple(body["row"]), body["ragged"])
        return _Noted(layout, body["done"], body["written"], body["files"])
    except (FileNotFoundError, Damaged, KeyError):
        return None


def _write(folder: Path, name: str, noted: _Noted) -> None:
    rest = {"done": noted.done, "written": noted.written, "files": noted.files}
    write_sealed(_path(folder, name, LAYOUT), {**asdict(noted.layout), **rest})
