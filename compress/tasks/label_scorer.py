"""What is kept of a classifier's outputs: a few numbers an example. Runs beside `runner.py`: numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

SUM_TOLERANCE = 1e-3


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Outputs (n, labels) of a batch -> for each example its label and how sure the model is.

    Args:
        outputs: float32; (n, labels, 1, 1) is what a head of 1 x 1 convolutions gives.
        batch: the inputs that they are of.
        settings: `order`, where there is one: for each label of the data which output stands for it.

    Returns:
        `label` int64 (n,), the highest output; `softmax` and `output` float64 (n,), its share of the powers of e and of
        the outputs themselves; `distribution` bool (n,), whether all that the model puts out are probabilities already:
        it may end in a Softmax of its own. Where an output is no finite number, so is `softmax`.

    Raises:
        ValueError: the outputs are not one row of numbers an example.
    """
    rows = np.asarray(outputs).reshape(len(outputs), -1) if flat(outputs.shape) else outputs
    if rows.ndim != 2:
        raise ValueError("the outputs are not one row of numbers per example")
    wide = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # Of all outputs: those of labels that the data does not have take their part.
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
    """Whether outputs of this shape hold one row of numbers an example: one axis beside the first, or others of 1."""
    return len(shape) > 2 and sum(size != 1 for size in shape[1:]) <= 1
