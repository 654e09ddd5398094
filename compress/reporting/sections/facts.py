"""Plain JSON values as words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.reporting.render.numbers import MISSING, count, known


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as dotted keys with one line of text each, in the order they stand."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            lines += flatten(value, f"{name}.")
        else:
            lines.append((name, value_words(value)))
    return lines


def value_words(value: Any) -> str:
    """A JSON value as one line of text; long lists are cut, and say so."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if known(value) else MISSING
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        shown = ", ".join(value_words(item) for item in value[:12])
        return shown if len(value) <= 12 else f"{shown}, … ({len(value)} in all)"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {text}" for key, text in flatten(value))
    return str(value)
