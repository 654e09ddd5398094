"""Packing: short texts side by side in blocks of one length, without attention across texts, to save padding."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from compress.encoding.inputs import Batch
from compress.encoding.tokens import ATTENTION_MASK, INPUT_IDS, TokenInputs
from compress.store.flat import Ragged

POSITION_IDS = "position_ids"
"""Input that restarts at 0 with each text of a block, which is how transformers models tell packed texts apart."""


@dataclass(frozen=True, eq=False)
class PackedInputs:
    """Blocks of texts. `bins`: the indices into `inner` of the texts in each block, int64, ragged."""

    inner: TokenInputs
    bins: Ragged
    longest: int
    lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        counted = np.add.reduceat(self.inner.lengths[self.bins.flat.values], self.bins.offsets[:-1])
        object.__setattr__(self, "lengths", counted)

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Token ids, and the position of each token in its text."""
        return INPUT_IDS, POSITION_IDS

    @property
    def documents(self) -> NDArray[np.int64]:
        """The first example in each block, int64."""
        owners: NDArray[np.int64] = getattr(self.inner, "documents", np.arange(len(self.inner)))
        first: NDArray[np.int64] = self.bins.flat.values[self.bins.offsets[:-1]]
        return owners[first]

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the blocks at `indices`, padded to the longest of them, with their extra per-token arrays.

        The padding is a text of its own, which does not count in the loss.
        """
        blocks = [self._block(index) for index in np.asarray(indices, np.int64)]
        size = max(len(block[INPUT_IDS]) for block in blocks)
        fills = {INPUT_IDS: self.inner.pad_id}
        batch = {
            name: np.stack([_padded(block[name], size, fills.get(name, 0)) for block in blocks])
            for name in blocks[0]
        }
        for row, block in zip(batch[POSITION_IDS], blocks, strict=True):
            row[len(block[POSITION_IDS]) :] = np.arange(size - len(block[POSITION_IDS]))
        return batch

    def _block(self, index: int) -> Batch:
        rows = self.inner.batch(self.bins[int(index)])
        real = rows[ATTENTION_MASK].astype(bool)
        places = np.broadcast_to(np.arange(real.shape[1]), real.shape)
        every = {name: values for name, values in rows.items() if values.shape == real.shape}
        del every[ATTENTION_MASK]
        return {name: values[real] for name, values in {**every, POSITION_IDS: places}.items()}

    def digest(self) -> str:
        """Return the sha256 of everything that is fed to a model."""
        digest = hashlib.sha256(self.inner.digest().encode())
        for values in (self.bins.offsets, self.bins.flat.values):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def pack_texts(inputs: TokenInputs, longest: int) -> PackedInputs:
    """Pack texts into blocks of at most `longest` tokens, by best-fit decreasing.

    Texts are placed from the longest to the shortest, each into the fullest block it still fits. Deterministic. A text
    longer than `longest` gets a block of its own.
    """
    blocks: list[list[int]] = []
    open_blocks: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for place in np.argsort(-inputs.lengths, kind="stable").tolist():
        length = int(inputs.lengths[place])
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            block = open_blocks[room].pop()
            if not open_blocks[room]:
                del rooms[at]
        else:
            room, block = max(longest, length), len(blocks)
            blocks.append([])
        blocks[block].append(place)
        left = room - length
        if left:
            if not open_blocks[left]:
                insort(rooms, left)
            open_blocks[left].append(block)
    return PackedInputs(inputs, Ragged.of(blocks, np.int64), longest)


def _padded(values: NDArray[np.int64], size: int, fill: int) -> NDArray[np.int64]:
    return np.pad(values, (0, size - len(values)), constant_values=fill)
