"""One signal of a teacher on fixed inputs, in a file: rows without padding, written in chunks, read memory-mapped."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.errors import PassError
from compress.files import allocate, publish, write_json
from compress.store.flat import FileArray, FlatArray, Ragged


@dataclass(frozen=True)
class Layout:
    """How a signal lies on disk.

    `row`: shape of what is stored for one example, or for one token where it is `ragged`.
    """

    dtype: Literal["float16", "float32"]
    row: tuple[int, ...]
    ragged: bool

    def shape(self, offsets: NDArray[np.int64]) -> tuple[int, ...]:
        """Shape of the file of inputs whose tokens begin at `offsets` (n + 1,)."""
        return (int(offsets[-1]) if self.ragged else len(offsets) - 1, *self.row)

    def bytes(self, offsets: NDArray[np.int64]) -> int:
        """Bytes of that file."""
        return math.prod(self.shape(offsets)) * np.dtype(self.dtype).itemsize


class TooLarge(Exception):
    """A finite value of the signal that is named does not fit into float16."""


class StoredSignal:
    """A finished signal.

    Args:
        values: (n, *row), or (tokens, *row) where `offsets` says where the tokens of each example stand.
        offsets: int64 (n + 1,); None: one row an example.
    """

    def __init__(self, values: FlatArray, offsets: NDArray[np.int64] | None) -> None:
        self.values = values
        self._ragged = None if offsets is None else Ragged(values, offsets)

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """The rows of the examples at `indices`, in the type they are stored in: (n, *row), or (n, longest, *row) with
        zeros after the end of an example."""
        rows = self.values.rows(indices) if self._ragged is None else self._ragged.padded(indices)[0]
        return torch.from_numpy(rows)


def open_signal(folder: Path, name: str, offsets: NDArray[np.int64]) -> StoredSignal | None:
    """The signal of this name; None where it is not finished, or was damaged."""
    path, described = _path(folder, name, "bin"), _read(folder, name)
    if described is None or not path.exists():
        return None
    layout = described[0]
    if path.stat().st_size != layout.bytes(offsets):
        return None
    values = FileArray(path, layout.dtype, layout.shape(offsets))
    return StoredSignal(values, offsets if layout.ragged else None)


class SignalWriter:
    """Fills the file of one signal; what `note` counted survives a kill.

    Args:
        layout: how it is to be stored. A float16 signal in which a value did not fit goes on in float32.
    """

    def __init__(self, folder: Path, name: str, layout: Layout, offsets: NDArray[np.int64]) -> None:
        self.name = name
        self._folder = folder
        self._offsets = offsets
        self._partial = _path(folder, name, "part")
        self.layout, self.done = _read(folder, name) or (layout, 0)
        if not self._partial.exists() or self._partial.stat().st_size != self.layout.bytes(offsets):
            self.layout, self.done = layout, 0
        if self.done == 0:
            self._allocate()
        self._values = FileArray(self._partial, self.layout.dtype, self.layout.shape(offsets), writable=True)

    def put(self, indices: NDArray[np.int64], signal: Tensor) -> None:
        """Write the signal of a batch, (n, *row) or padded (n, longest, *row), of the examples at `indices`.

        Raises:
            TooLarge: a value does not fit into the type; the file has to be written anew, in float32.
            PassError: the teacher gave a value that is not finite.
        """
        kept = signal.detach().to(getattr(torch, self.layout.dtype))
        if not torch.isfinite(kept).all():
            if not torch.isfinite(signal).all():
                raise PassError(f"the teacher's {self.name} is not finite", hint="Try `precision: fp32`.")
            raise TooLarge(self.name)
        rows = kept.cpu().numpy()
        if self.layout.ragged:
            places, present = Ragged(self._values, self._offsets).places(indices)
            self._values.put(places, rows[present])
        else:
            self._values.put(indices, rows)

    def widen(self) -> None:
        """Begin anew in float32."""
        self.layout, self.done = Layout("float32", self.layout.row, self.layout.ragged), 0
        self._allocate()
        self._values = FileArray(
            self._partial, self.layout.dtype, self.layout.shape(self._offsets), writable=True
        )

    def note(self, done: int) -> None:
        """Remember that so many examples, in the order of the writing, are on disk."""
        self._values.flush()
        self.done = done
        _write(self._folder, self.name, self.layout, done)

    def finish(self) -> None:
        """Give the file its final name; all of it is there."""
        self._values.flush()
        publish(self._partial, _path(self._folder, self.name, "bin"))

    def _allocate(self) -> None:
        allocate(self._partial, self.layout.bytes(self._offsets))
        _write(self._folder, self.name, self.layout, 0)


def _path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f"{quote(name, safe='')}.{suffix}"


def _read(folder: Path, name: str) -> tuple[Layout, int] | None:
    """How a signal lies in its file, and how many examples of it are there; None where that is not known."""
    try:
        body: dict[str, Any] = json.loads(_path(folder, name, "layout").read_text(encoding="utf-8"))
        return Layout(body["dtype"], tuple(body["row"]), body["ragged"]), body["done"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Path, name: str, layout: Layout, done: int) -> None:
    write_json(_path(folder, name, "layout"), {**asdict(layout), "done": done})
