"""What is kept of a model's outputs: two sums a document. Runs where the model runs: numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Logits (n, characters, alphabet) and the characters they are of -> `nats` float64 and `characters` int64 (n,).

    Raises:
        ValueError: the outputs are not logits of each character.
    """
    letters = batch["input_ids"]
    if outputs.ndim != 3 or outputs.shape[:2] != letters.shape:
        raise ValueError("the outputs are not one row of numbers a character")
    logits = outputs[:, :-1].astype(np.float64)
    following = letters[:, 1:]
    highest = logits.max(axis=-1, keepdims=True)
    logs = logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))
    real = following != 0
    lost = -np.take_along_axis(logs, following[..., None], axis=-1)[..., 0]
    return {
        "nats": np.where(real, lost, 0.0).sum(axis=1),
        "characters": real.sum(axis=1).astype(np.int64),
    }
