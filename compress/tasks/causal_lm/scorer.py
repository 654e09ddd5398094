"""What is kept of a language model's outputs: sums a window. Runs beside `runner.py`: Python 3.9, numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

TOP = 64
"""Words of which the baseline's log-probability is kept at a token; the rest of its mass is one more."""
CHUNK = 64
"""Tokens whose logits are looked at together: a copy of all of them would be as large as the outputs."""


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Logits (n, tokens, words) of a batch -> sums over the scored tokens of each window, and the likeliest words.

    `nats` float64 (n,): minus the log-probability of the tokens; `tokens`, `right`, `bytes`, `document` int64 (n,);
    `likeliest` int32 (n, `settings["length"]`), where that is set: the likeliest word at each scored token, else -1.
    Where the batch says which tokens are `compared`, `top_words` and `top_logs` (n, tokens, `TOP`) of these; or, where
    it holds the baseline's, `divergence` float64 (n,): KL(baseline || model), summed over them.

    Raises:
        ValueError: the outputs are not logits of every token.
    """
    ids, learnt = batch["input_ids"], np.asarray(batch["beside.learnt"], bool)
    if outputs.ndim != 3 or outputs.shape[:2] != ids.shape:
        raise ValueError("the outputs are not one row of logits a token")
    nats, right = np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    length = settings.get("length", 0)
    likeliest = np.full((len(ids), length), -1, np.int32)
    for row in range(len(ids)):
        # A token is foretold by what stands before it.
        places = np.flatnonzero(learnt[row])
        places = places[places > 0]
        for start in range(0, len(places), CHUNK):
            chosen = places[start : start + CHUNK]
            logs = log_softmax(outputs[row, chosen - 1])
            wanted, found = ids[row, chosen], logs.argmax(axis=1)
            nats[row] -= logs[np.arange(len(chosen)), wanted].sum()
            right[row] += (found == wanted).sum()
            if length:
                likeliest[row, chosen] = found
    kept = {
        "nats": nats,
        "tokens": learnt[:, 1:].sum(axis=1).astype(np.int64),
        "right": right,
        "bytes": np.asarray(batch["beside.bytes"], np.int64),
        "document": np.asarray(batch["beside.document"], np.int64),
    }
    if "beside.compared" in batch:
        kept.update(compared(outputs, batch))
    return {**kept, "likeliest": likeliest} if length else kept


def compared(outputs: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the distributions at the tokens that are compared."""
    places = batch["beside.compared"]
    given = batch.get("beside.top_words")
    size = min(TOP, outputs.shape[2])
    words, tops = np.zeros((*places.shape, size), np.int32), np.zeros((*places.shape, size), np.float32)
    divergence = np.zeros(len(places))
    for row in range(len(places)):
        chosen = np.flatnonzero(places[row] > 0)
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            logs = log_softmax(outputs[row, places[row, part] - 1])
            if given is None:
                words[row, part] = np.argpartition(-logs, size - 1, axis=1)[:, :size]
                tops[row, part] = np.take_along_axis(logs, words[row, part], axis=1)
            else:
                theirs = batch["beside.top_logs"][row, part].astype(np.float64)
                own = np.take_along_axis(logs, given[row, part], axis=1)
                divergence[row] += bucketed_divergence(theirs, own).sum()
    if given is None:
        return {"compared": places, "top_words": words, "top_logs": tops}
    return {"compared": places, "divergence": divergence}


def bucketed_divergence(theirs: Any, own: Any) -> Any:
    """KL(theirs || own) in nats of log-probabilities (tokens, words) of some words, all others taken for one.

    It is no larger than that of all words, by the log sum inequality.
    """
    tiny = 1e-12
    rest, ours = (np.maximum(1 - np.exp(logs).sum(axis=1), tiny) for logs in (theirs, own))
    return (np.exp(theirs) * (theirs - own)).sum(axis=1) + rest * np.log(rest / ours)


def log_softmax(logits: Any) -> Any:
    """Log-probabilities along the last axis, float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
