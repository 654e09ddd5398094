"""Units: the only place that defines 10**6, 2**20 and 10**3, except for the two files that devices run standalone."""

from __future__ import annotations

BYTES_PER_MB = 10**6
MB_PER_GB = 10**3
FLOAT_BYTES = 4
"""Bytes of an FP32 number."""
KIB = 2**10
MIB = 2**20
GIB = 2**30
MS_PER_S = 10**3
NS_PER_MS = 10**6


def megabytes(size_bytes: float) -> float:
    """Convert bytes to MB of 10^6 bytes."""
    return size_bytes / BYTES_PER_MB


def format_count(value: float) -> str:
    """Format a count with an SI suffix: 22713216 -> `22.7 M`."""
    for limit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f} {suffix}"
    return f"{value:.0f}"


def pluralize(number: int, noun: str) -> str:
    """Format a number with its noun in singular or plural: `1 text`, `3 texts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Format a duration: 0.31 -> `0.3 s`, 75 -> `1 min 15 s`, 3700 -> `1 h 1 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
