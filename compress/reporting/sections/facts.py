"""Format plain JSON values as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compress.reporting.render.numbers import MISSING, count, known
from compress.reporting.render.scores import MetricFormat

_SCORES = re.compile(r"(validation|train)_score(_|$)|^on_validation$|^score$")


def ranks_to_values(facts: Any, fmt: MetricFormat, *, is_score: bool = False) -> Any:
    """Convert validation scores in facts, which passes record so that larger is better, to values of the metric."""
    if isinstance(facts, Mapping):
        return {
            key: ranks_to_values(fact, fmt, is_score=is_score or _SCORES.search(key) is not None)
            for key, fact in facts.items()
        }
    if isinstance(facts, list):
        return [ranks_to_values(fact, fmt, is_score=is_score) for fact in facts]
    return fmt.from_rank(facts) if is_score and isinstance(facts, float) else facts


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested JSON values to dotted keys with one line of text each, in order."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            lines += flatten(value, f"{name}.")
        else:
            lines.append((name, value_words(value)))
    return lines


def value_words(value: Any) -> str:
    """Format a JSON value as one line of text; long lists are truncated, with their length."""
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
