"""Scorer that stores a model's raw outputs. Loaded by `runner.py`, so it needs only Python 3.9."""

from __future__ import annotations

from typing import Any


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs (n, ...) of a batch unchanged, as `outputs`."""
    return {"outputs": outputs}
