"""Reduce a classifier's outputs to a few numbers per example. Runs beside `runner.py`: numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

SUM_TOLERANCE = 1e-3


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Reduce outputs (n, labels) of a batch to the label and the confidence of each example.

    Args:
        outputs: float32; also (n, labels, 1, 1), as from a head of 1 x 1 convolutions.
        batch: the inputs of these outputs.
        settings: `order`, if set: the index of the output of each label of the data.

    Returns:
        `label` int64 (n,), the highest output; `softmax` and `output` float64 (n,), its softmax probability and its
        share of the outputs; `distribution` bool (n,), whether the outputs are already probabilities, as from a model
        with a final Softmax. `softmax` is NaN where an output is not finite.

    Raises:
        ValueError: the outputs are not one row of numbers per example.
    """
    rows = np.asarray(outputs).reshape(len(outputs), -1) if is_row_shape(outputs.shape) else outputs
    if rows.ndim != 2:
        raise ValueError("the outputs are not one row of numbers per example")
    rows_float64 = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # Checked on all outputs, since those of labels not in the data have probability mass too.
        is_distribution = (rows_float64 >= 0).all(axis=1) & np.isclose(
            rows_float64.sum(axis=1), 1, atol=SUM_TOLERANCE
        )
        if settings.get("order") is not None:
            rows_float64 = rows_float64[:, settings["order"]]
        label = np.asarray(rows_float64.argmax(axis=1), np.int64)
        exponentials = np.exp(rows_float64 - rows_float64.max(axis=1, keepdims=True))
        confidence = exponentials.max(axis=1) / exponentials.sum(axis=1)
        total = rows_float64.sum(axis=1)
        output = np.where(
            is_distribution & (total > 0), rows_float64.max(axis=1) / total, rows_float64.max(axis=1)
        )
    confidence[~np.isfinite(rows_float64).all(axis=1)] = np.nan
    return {"label": label, "softmax": confidence, "output": output, "distribution": is_distribution}


def is_row_shape(shape: Any) -> bool:
    """Whether outputs of this shape are one row of numbers per example: at most one axis besides the first is not 1."""
    return len(shape) > 2 and sum(size != 1 for size in shape[1:]) <= 1
