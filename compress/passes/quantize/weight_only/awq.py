"""Scales of a layer's inputs that spare the weights which matter: activation-aware weight quantization (AWQ).

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023. Weights of inputs
that are large on average are multiplied by a scale before they are rounded, and the inputs divided by it, so that their
rounding errors count for less. How far to go is searched for each layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import Floats, quantize_blocks
from compress.passes.quantize.weight_only.gptq import output_error
from compress.passes.quantize.weight_only.hessian import InputMoments

EXPONENTS = tuple(step / 20 for step in range(20))
"""Scales are the mean sizes of the inputs to one of these powers; 0 scales nothing."""


def search_scales(rows: Floats, moments: InputMoments, block_size: int, bits: int, symmetric: bool) -> Floats:
    """Scales (width,) by which to multiply the columns of rows (rows, width), and to divide the inputs.

    Those with the least error of the outputs on the calibration inputs, after rounding to nearest; all ones where none
    do better.
    """
    best, least = np.ones(rows.shape[1], np.float32), np.inf
    for exponent in EXPONENTS:
        scales = _scales(moments.size, exponent)
        restored = quantize_blocks(rows * scales, block_size, bits, symmetric).dequantized() / scales
        error = output_error(rows, restored, moments.second)
        if error < least:
            best, least = scales, error
    return best


def _scales(size: NDArray[np.float64], exponent: float) -> Floats:
    """size^exponent, centred on 1 in its geometric range; an input that is always 0 stays as it is."""
    seen = size > 0
    if exponent == 0 or not seen.any():
        return np.ones(len(size), np.float32)
    scales = np.where(seen, size, 1.0) ** exponent
    centre = np.sqrt(scales[seen].max() * scales[seen].min())
    return np.where(seen, scales / centre, 1.0).clip(1e-4, 1e4).astype(np.float32)
