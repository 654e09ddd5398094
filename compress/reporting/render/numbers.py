"""Format numbers for reports: percentages, milliseconds, factors, intervals; a dash for missing values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

MISSING = "–"


def known(value: float | None) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return value is not None and math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """Format with `digits` significant digits and no exponent: 0.31234 -> `0.312`, 1234.5 -> `1234`."""
    if not known(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 9)}f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Format a fraction as a percentage: 0.9412 -> `94.1 %`."""
    if not known(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f} %"


def format_range(
    low: float | None, high: float | None, format_value: Callable[[float], str], unit: str = ""
) -> str:
    """Format an interval, each end by `format_value`: (20.9, 21.8) -> `20.9–21.8×`; empty if an end is missing."""
    return f"{format_value(low)}–{format_value(high)}{unit}" if known(low) and known(high) else ""


def percent_range(low: float | None, high: float | None) -> str:
    """Format an interval of fractions: (0.921, 0.957) -> `92.1–95.7 %`; empty if an end is missing."""
    return format_range(low, high, lambda fraction: f"{100 * fraction:.1f}", " %")


def points(difference: float | None) -> str:
    """Format a difference of two fractions in signed percentage points: -0.0123 -> `−1.2`."""
    if not known(difference):
        return MISSING
    return signed(round(100 * difference, 1), 1)


def signed(value: float, decimals: int) -> str:
    """Format a number with its sign, using a real minus sign; zero has none."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return f"+{text}" if value > 0 else f"−{text}"


def times(factor: float | None) -> str:
    """Format a factor: 21.34 -> `21.3×`, 1.043 -> `1.04×`."""
    return MISSING if not known(factor) else f"{significant(factor)}×"


def times_range(low: float | None, high: float | None) -> str:
    """Format an interval of factors: (20.9, 21.8) -> `20.9–21.8×`; empty if an end is missing."""
    return format_range(low, high, significant, "×")


def count(value: int | None) -> str:
    """Format an integer with thousands separators: 22713216 -> `22,713,216`."""
    return MISSING if value is None else f"{value:,}"


def p_value(value: float | None) -> str:
    """Format a p value: 0.0123 -> `p = 0.012`, 0.00002 -> `p < 0.001`; empty if missing."""
    if not known(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}".rstrip("0").rstrip(".")
