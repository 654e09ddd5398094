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
    """Blocks of texts. `bins`: the indices into `base` of the texts in each block, int64, ragged."""

    base: TokenInputs
    bins: Ragged
    max_length: int
    lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        lengths = np.add.reduceat(self.base.lengths[self.bins.flat.values], self.bins.offsets[:-1])
        object.__setattr__(self, "lengths", lengths)

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Token ids, and the position of each token in its text."""
        return INPUT_IDS, POSITION_IDS

    @property
    def documents(self) -> NDArray[np.int64]:
        """The first example in each block, int64."""
        row_examples: NDArray[np.int64] = getattr(self.base, "documents", np.arange(len(self.base)))
        first: NDArray[np.int64] = self.bins.flat.values[self.bins.offsets[:-1]]
        return row_examples[first]

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the blocks at `indices`, padded to the longest of them, with their extra per-token arrays.

        The padding is a text of its own, which does not count in the loss.
        """
        blocks = [self._block(index) for index in np.asarray(indices, np.int64)]
        length = max(len(block[INPUT_IDS]) for block in blocks)
        pad_values = {INPUT_IDS: self.base.pad_id}
        batch = {
            name: np.stack([_padded(block[name], length, pad_values.get(name, 0)) for block in blocks])
            for name in blocks[0]
        }
        for positions, block in zip(batch[POSITION_IDS], blocks, strict=True):
            positions[len(block[POSITION_IDS]) :] = np.arange(length - len(block[POSITION_IDS]))
        return batch

    def _block(self, index: int) -> Batch:
        batch = self.base.batch(self.bins[int(index)])
        mask = batch[ATTENTION_MASK].astype(bool)
        positions = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        per_token = {name: values for name, values in batch.items() if values.shape == mask.shape}
        del per_token[ATTENTION_MASK]
        return {name: values[mask] for name, values in {**per_token, POSITION_IDS: positions}.items()}

    def digest(self) -> str:
        """Return the sha256 of everything that is fed to a model."""
        digest = hashlib.sha256(self.base.digest().encode())
        for values in (self.bins.offsets, self.bins.flat.values):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def pack_texts(inputs: TokenInputs, max_length: int) -> PackedInputs:
    """Pack texts into blocks of at most `max_length` tokens, by best-fit decreasing.

    Texts are placed from the longest to the shortest, each into the fullest block it still fits. Deterministic. A text
    longer than `max_length` gets a block of its own.
    """
    blocks: list[list[int]] = []
    open_blocks: dict[int, list[int]] = defaultdict(list)
    free_sizes: list[int] = []
    for index in np.argsort(-inputs.lengths, kind="stable").tolist():
        length = int(inputs.lengths[index])
        slot = bisect_left(free_sizes, length)
        if slot < len(free_sizes):
            free = free_sizes[slot]
            block = open_blocks[free].pop()
            if not open_blocks[free]:
                del free_sizes[slot]
        else:
            free, block = max(max_length, length), len(blocks)
            blocks.append([])
        blocks[block].append(index)
        remaining = free - length
        if remaining:
            if not open_blocks[remaining]:
                insort(free_sizes, remaining)
            open_blocks[remaining].append(block)
    return PackedInputs(inputs, Ragged.of(blocks, np.int64), max_length)


def _padded(values: NDArray[np.int64], length: int, fill: int) -> NDArray[np.int64]:
    return np.pad(values, (0, length - len(values)), constant_values=fill)
