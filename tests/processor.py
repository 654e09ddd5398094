"""What the processor of the tests multiplies without an overflow."""

from __future__ import annotations

from compress.core.numerics import reduced_range
from compress.passes.quantize.int8.affine import weight_limit

WEIGHT_LIMIT = weight_limit(reduced_range("auto"))
"""The largest integer of an 8-bit weight whose products are exact here."""
