"""Selection of the examples on which the teacher is trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import PassError
from compress.data.splits import UNLABELLED
from compress.profile.specs.teaching import SelectSpec

MIN_EXAMPLES = 2


def trusted_mask(
    outputs: NDArray[np.float32], labels: NDArray[np.int64], spec: SelectSpec
) -> NDArray[np.bool_]:
    """Return which examples are kept: the teacher is confident, and right where there is a label.

    Confidence is the highest probability, at temperature 1.

    Args:
        outputs: the teacher's logits (n, classes).
        labels: int64 (n,), `UNLABELLED` where there is none.

    Raises:
        PassError: fewer than two examples are left.
    """
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    # The highest logit is 0 after the shift, so its probability is 1 over the sum.
    confidence = 1.0 / np.exp(shifted.astype(np.float64)).sum(axis=1)
    mask: NDArray[np.bool_] = confidence >= spec.confidence
    if spec.right:
        mask &= (labels == UNLABELLED) | (outputs.argmax(axis=1) == labels)
    if mask.sum() < MIN_EXAMPLES:
        raise PassError(
            f"only {int(mask.sum())} of {len(mask)} examples are selected",
            where="select",
            hint=f"Lower `confidence` ({spec.confidence:g}); the teacher's median is {np.median(confidence):.3f}.",
        )
    return mask
