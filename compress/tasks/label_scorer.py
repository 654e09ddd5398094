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
    rows = np.asarray(outputs).reshape(len(outputs), -1) if flat(outputs.shape) else outputs
    if rows.ndim != 2:
        raise ValueError("the outputs are not one row of numbers per example")
    wide = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # Checked on all outputs, since those of labels not in the data have probability mass too.
        own = (wide >= 0).all(axis=1) & np.isclose(wide.sum(axis=1), 1, atol=SUM_TOLERANCE)
        if settings.get("order") is not None:
            wide = wide[:, settings["order"]]
        label = np.asarray(wide.argmax(axis=1), np.int64)
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        sure = powers.max(axis=1) / powers.sum(axis=1)
        total = wide.sum(axis=1)
        output = np.where(own & (total > 0), wide.max(axis=1) / total, wide.max(axis=1))
    sure[~np.isfinite(wide).all(axis=1)] = np.nan
    return {"label": label, "softmax": sure, "output": output, "distribution": own}


def flat(shape: Any) -> bool:
    """Whether outputs of this shape are one row of numbers per example: at most one axis besides the first is not 1."""
    return len(shape) > 2 and sum(size != 1 for size in shape[1:]) <= 1
