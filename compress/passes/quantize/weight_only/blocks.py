"""Block quantization of weights with shared scales, on plain arrays.

Blocks run along the last axis; an incomplete last block is padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

ROWS_PER_CHUNK = 1024
_MIN_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Blocks:
    """Rows quantized in blocks.

    `values`: uint8 (rows, blocks, block_size), integers below 2^bits. `scales`: float32 (rows, blocks). `zero_points`:
    uint8 (rows, blocks), the integer that represents 0; None if it is 2^(bits-1) everywhere.
    """

    values: Bytes
    scales: Floats
    zero_points: Bytes | None
    bits: int
    width: int

    @property
    def block_size(self) -> int:
        """Number of values that share a scale."""
        return int(self.values.shape[2])

    def dequantized(self) -> Floats:
        """Return the dequantized rows, float32 (rows, width)."""
        return self.dequantized_blocks().reshape(len(self.values), -1)[:, : self.width]

    def dequantized_blocks(self) -> Floats:
        """Return the dequantized blocks, float32 (rows, blocks, block_size), padding included."""
        zero_points = (
            np.float32(2 ** (self.bits - 1)) if self.zero_points is None else self.zero_points[..., None]
        )
        return np.asarray((self.values.astype(np.float32) - zero_points) * self.scales[..., None], np.float32)

    def packed(self) -> Bytes:
        """Return the integers in storage layout: uint8 (rows, blocks, block_size * bits / 8)."""
        return pack_nibbles(self.values) if self.bits == 4 else self.values

    def packed_zero_points(self) -> Bytes | None:
        """Return the zero points in storage layout: uint8 (rows, bytes), packed per row."""
        return (
            self.zero_points if self.zero_points is None or self.bits == 8 else pack_nibbles(self.zero_points)
        )


def quantize_blocks(rows: Floats, block_size: int, bits: int, symmetric: bool) -> Blocks:
    """Quantize rows (rows, width) to nearest, in `bits` bits with a scale for every `block_size` values.

    Symmetric 4-bit blocks use the extra negative integer: the scale is signed so that the value furthest from zero maps
    to it (as in onnxruntime's own quantizer), which halves the worst error.
    """

    def quantize_chunk(part: Floats) -> Blocks:
        cut = split_into_blocks(part, block_size)
        scales, zeros = fit_grid(cut, bits, symmetric)
        return Blocks(round_to(cut, scales, zeros, bits), scales, zeros, bits, part.shape[1])

    return map_row_chunks(rows, quantize_chunk)


def map_row_chunks(rows: Floats, quantize: Callable[[Floats], Blocks]) -> Blocks:
    """Quantize rows in chunks to bound the size of temporaries."""
    chunks = [quantize(rows[start : start + ROWS_PER_CHUNK]) for start in range(0, len(rows), ROWS_PER_CHUNK)]
    zero_points = [part.zero_points for part in chunks if part.zero_points is not None]
    return Blocks(
        np.concatenate([part.values for part in chunks]),
        np.concatenate([part.scales for part in chunks]),
        np.concatenate(zero_points) if zero_points else None,
        chunks[0].bits,
        rows.shape[1],
    )


def split_into_blocks(rows: Floats, block_size: int) -> Floats:
    """Reshape rows (rows, width) to (rows, blocks, block_size), padding the last block with zeros."""
    count = -(-rows.shape[1] // block_size)
    padded = np.zeros((len(rows), count * block_size), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(len(rows), count, block_size)


def fit_grid(blocks: Floats, bits: int, symmetric: bool) -> tuple[Floats, Bytes | None]:
    """Return scales and zero points (rows, blocks) that just cover the values (rows, blocks, block_size)."""
    levels, midpoint = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        extremes = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)[..., 0]
        # A block of zeros, or of numbers too small to divide by, becomes zeros.
        tiny = np.abs(extremes) < _MIN_SCALE * midpoint
        return np.where(tiny, 1.0, extremes / -midpoint).astype(np.float32), None
    low, high = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    scales = np.maximum((high - low) / levels, _MIN_SCALE).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, levels).astype(np.uint8)


def round_to(
    values: NDArray[np.floating[Any]], scales: Floats, zero_points: Bytes | None, bits: int
) -> Bytes:
    """Round values (..., block_size) to the nearest integers of a grid with scales and zero points (...)."""
    middle = 2 ** (bits - 1) if zero_points is None else zero_points[..., None]
    nearest = np.rint(values / scales[..., None]) + middle
    return np.asarray(np.clip(nearest, 0, 2**bits - 1), np.uint8)


def pack_nibbles(values: Bytes) -> Bytes:
    """Pack 4-bit integers two per byte along the last axis, the first in the low half; an odd end is padded with 0."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return np.asarray(values[..., 0::2] | (values[..., 1::2] << 4), np.uint8)


def unpack_nibbles(packed: Bytes) -> Bytes:
    """Unpack bytes (..., n) of `pack_nibbles` into integers (..., 2n)."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
