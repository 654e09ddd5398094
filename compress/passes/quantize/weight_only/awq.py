"""AWQ: activation-aware weight quantization, which scales a layer's inputs to protect its salient weights.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023. Weights of inputs
that are large on average are multiplied by a scale before rounding, and the inputs divided by it, so that their
rounding errors weigh less. The strength is searched for each layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import Floats, quantize_blocks
from compress.passes.quantize.weight_only.gptq import output_error
from compress.passes.quantize.weight_only.hessian import InputMoments

EXPONENTS = tuple(step / 20 for step in range(20))
"""Scales are the mean magnitudes of the inputs to one of these powers; 0 means no scaling."""


def search_scales(rows: Floats, moments: InputMoments, block_size: int, bits: int, symmetric: bool) -> Floats:
    """Return scales (width,) by which to multiply the columns of rows (rows, width) and to divide the inputs.

    Selects the scales with the smallest output error on the calibration inputs after rounding to nearest; all ones if
    no others are better.
    """
    best, min_error = np.ones(rows.shape[1], np.float32), np.inf
    for exponent in EXPONENTS:
        scales = _scales(moments.mean_abs, exponent)
        restored = quantize_blocks(rows * scales, block_size, bits, symmetric).dequantized() / scales
        error = output_error(rows, restored, moments.second)
        if error < min_error:
            best, min_error = scales, error
    return best


def _scales(magnitudes: NDArray[np.float64], exponent: float) -> Floats:
    """Return size^exponent, normalized by the geometric mean of its extremes; 1 for an input that is always 0."""
    nonzero = magnitudes > 0
    if exponent == 0 or not nonzero.any():
        return np.ones(len(magnitudes), np.float32)
    scales = np.where(nonzero, magnitudes, 1.0) ** exponent
    centre = np.sqrt(scales[nonzero].max() * scales[nonzero].min())
    return np.where(nonzero, scales / centre, 1.0).clip(1e-4, 1e4).astype(np.float32)
