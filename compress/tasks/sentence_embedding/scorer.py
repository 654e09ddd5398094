"""Keep a sentence encoder's output vectors. Runs beside `runner.py`: Python 3.9 and numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return outputs (n, width) of a batch as `vector` float32 (n, width); similarities need all batches together.

    Raises:
        ValueError: the outputs are not one row of numbers per example.
    """
    rows = np.asarray(outputs, np.float32)
    if rows.ndim > 2 and sum(size != 1 for size in rows.shape[1:]) <= 1:
        rows = rows.reshape(len(rows), -1)
    if rows.ndim != 2:
        raise ValueError("the outputs are not one row of numbers per example")
    return {"vector": rows}
