"""How far the outputs of a model are from those that it should give. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def divergence(reference: NDArray[np.float32], outputs: NDArray[np.float32], *, labelled: bool) -> float:
    """The mean over the examples, 0 where the outputs are equal; larger is worse.

    Args:
        reference: (n, labels or width), of the float model.
        outputs: the same of the other model.
        labelled: outputs are logits: KL(reference || outputs) of their softmax, nats. Else they are embeddings:
            1 - the cosine of the two.
    """
    expected, found = reference.astype(np.float64), outputs.astype(np.float64)
    if labelled:
        sure, guess = _log_softmax(expected), _log_softmax(found)
        return float((np.exp(sure) * (sure - guess)).sum(axis=1).mean())
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (expected * found).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return float(1 - cosines.mean())


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
