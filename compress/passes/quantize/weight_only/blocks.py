"""Weights in blocks that share a scale: the arithmetic of weight-only quantization, on plain arrays.

Blocks run along the last axis, and a last block that is not full is filled with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

ROWS_AT_ONCE = 1024
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Blocks:
    """Rows cut into blocks.

    `values`: uint8 (rows, blocks, block_size), integers below 2^bits. `scales`: float32 (rows, blocks).
    `zeros`: uint8 (rows, blocks), the integer that stands for 0; None where it is 2^(bits-1) everywhere.
    """

    values: Bytes
    scales: Floats
    zeros: Bytes | None
    bits: int
    width: int

    @property
    def block_size(self) -> int:
        """Values that share a scale."""
        return int(self.values.shape[2])

    def dequantized(self) -> Floats:
        """float32 (rows, width): what the integers stand for."""
        return self.restored().reshape(len(self.values), -1)[:, : self.width]

    def restored(self) -> Floats:
        """The same in blocks, float32 (rows, blocks, block_size), with what fills the last one."""
        zeros = np.float32(2 ** (self.bits - 1)) if self.zeros is None else self.zeros[..., None]
        return np.asarray((self.values.astype(np.float32) - zeros) * self.scales[..., None], np.float32)

    def packed(self) -> Bytes:
        """The integers as they are stored: uint8 (rows, blocks, block_size * bits / 8)."""
        return pack_nibbles(self.values) if self.bits == 4 else self.values

    def packed_zeros(self) -> Bytes | None:
        """The zero points as they are stored: uint8 (rows, bytes), those of a row one after the other."""
        return self.zeros if self.zeros is None or self.bits == 8 else pack_nibbles(self.zeros)


def quantize_blocks(rows: Floats, block_size: int, bits: int, symmetric: bool) -> Blocks:
    """Round to nearest. Rows (rows, width) -> integers of `bits` bits, a scale for every `block_size` of them.

    Symmetric 4-bit blocks use the integer that stands alone on the negative side: the scale is signed so that the
    value furthest from zero is that integer (as onnxruntime's own quantizer does), which halves the worst error.
    """

    def rounded(part: Floats) -> Blocks:
        cut = cut_into_blocks(part, block_size)
        scales, zeros = grid_of(cut, bits, symmetric)
        return Blocks(round_to(cut, scales, zeros, bits), scales, zeros, bits, part.shape[1])

    return in_parts(rows, rounded)


def in_parts(rows: Floats, quantize: Callable[[Floats], Blocks]) -> Blocks:
    """Rows quantized some at a time, so that what is needed meanwhile stays small whatever the weight."""
    parts = [quantize(rows[start : start + ROWS_AT_ONCE]) for start in range(0, len(rows), ROWS_AT_ONCE)]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return Blocks(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(zeros) if zeros else None,
        parts[0].bits,
        rows.shape[1],
    )


def cut_into_blocks(rows: Floats, block_size: int) -> Floats:
    """Rows (rows, width) -> (rows, blocks, block_size), the last block filled with zeros."""
    count = -(-rows.shape[1] // block_size)
    padded = np.zeros((len(rows), count * block_size), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(len(rows), count, block_size)


def grid_of(cut: Floats, bits: int, symmetric: bool) -> tuple[Floats, Bytes | None]:
    """Scales and zero points (rows, blocks) that just cover the values of blocks (rows, blocks, block_size)."""
    levels, middle = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        furthest = np.take_along_axis(cut, np.abs(cut).argmax(axis=2)[..., None], axis=2)[..., 0]
        # A block of zeros, or of numbers too small to divide by, becomes zeros.
        tiny = np.abs(furthest) < _SMALLEST_SCALE * middle
        return np.where(tiny, 1.0, furthest / -middle).astype(np.float32), None
    low, high = np.minimum(cut.min(axis=2), 0), np.maximum(cut.max(axis=2), 0)
    scales = np.maximum((high - low) / levels, _SMALLEST_SCALE).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, levels).astype(np.uint8)


def round_to(values: NDArray[np.floating[Any]], scales: Floats, zeros: Bytes | None, bits: int) -> Bytes:
    """The nearest integers of a grid: values (..., block_size), scales and zero points (...)."""
    middle = 2 ** (bits - 1) if zeros is None else zeros[..., None]
    nearest = np.rint(values / scales[..., None]) + middle
    return np.asarray(np.clip(nearest, 0, 2**bits - 1), np.uint8)


def pack_nibbles(values: Bytes) -> Bytes:
    """4-bit integers, two a byte along the last axis, the first in the low half; an odd end is filled with 0."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return np.asarray(values[..., 0::2] | (values[..., 1::2] << 4), np.uint8)


def unpack_nibbles(packed: Bytes) -> Bytes:
    """The integers (..., 2n) that `pack_nibbles` put into bytes (..., n)."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
