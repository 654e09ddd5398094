"""Reduce a language model's logits to sums per window. Runs beside `runner.py`: Python 3.9 and numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

TOP = 64
"""Number of most likely tokens whose baseline log-probabilities are kept; the remaining mass is one more bucket."""
CHUNK = 64
"""Number of tokens processed at once: a copy of all logits would be as large as the outputs."""
WHOLE = 2**26
"""Maximum number of logits of a window that are computed in a single run: 256 MiB."""
PIECE = 2**24
"""Approximate maximum number of logits per run if a window has more."""


class Pieces:
    """Logits (1, tokens, words) of a long window, computed in chunks of tokens with a KV cache."""

    def __init__(self, model: Any, batch: dict[str, Any], tokens: int) -> None:
        self._model, self._batch, self._tokens = model, batch, tokens
        self._first = self._run(0)
        self.shape = (*batch["input_ids"].shape, self._first.shape[2])
        self.ndim = 3

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield the position of the first token of each chunk, and its logits; can be iterated only once."""
        yield 0, self._first
        del self._first
        for start in range(self._tokens, self.shape[1], self._tokens):
            yield start, self._run(start)

    def _run(self, start: int) -> Any:
        ids, mask = self._batch["input_ids"], self._batch["attention_mask"]
        end = min(start + self._tokens, ids.shape[1])
        piece = {
            "input_ids": np.ascontiguousarray(ids[:, start:end]),
            "attention_mask": np.ascontiguousarray(mask[:, :end]),
            "logit_positions": np.arange(end - start)[None],
            "cache_room": np.array([ids.shape[1]]),
        }
        return np.asarray(self._model(piece), np.float32)


def outputs(model: Any, batch: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return logits (n, tokens, words) of a batch: an array, or `Pieces` if large and the model has a KV cache."""
    ids, words = batch["input_ids"], settings.get("words", 0)
    if len(ids) > 1 or ids.size * words <= WHOLE or not getattr(model, "goes_on", False):
        return np.asarray(model(batch), np.float32)
    return Pieces(model, batch, max(1, PIECE // words))


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Reduce logits (n, tokens, words) to sums over the scored tokens of each window, and most likely tokens.

    `nats` float64 (n,): negative log-likelihood of the tokens; `tokens`, `right`, `bytes`, `document` int64 (n,);
    `likeliest` int32 (n, `settings["length"]`), if that is set: the most likely token at each scored position, else -1.
    If the batch has positions to be `compared`, also `top_words` and `top_logs` (n, tokens, `TOP`) at these; or, if it
    holds the baseline's, `divergence` float64 (n,): KL(baseline || model), summed over them.

    Raises:
        ValueError: the outputs are not logits of every token.
    """
    ids, learnt = batch["input_ids"], np.asarray(batch["beside.learnt"], bool)
    if outputs.ndim != 3 or outputs.shape[:2] != ids.shape:
        raise ValueError("the outputs are not one row of logits per token")
    nats, right = np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    length = settings.get("length", 0)
    likeliest = np.full((len(ids), length), -1, np.int32)
    kept = {
        "nats": nats,
        "tokens": learnt[:, 1:].sum(axis=1).astype(np.int64),
        "right": right,
        "bytes": np.asarray(batch["beside.bytes"], np.int64),
        "document": np.asarray(batch["beside.document"], np.int64),
    }
    if "beside.compared" in batch:
        kept.update(_nothing_compared(batch, outputs.shape[2]))
    for first, logits in outputs if isinstance(outputs, Pieces) else [(0, outputs)]:
        # The logits at a position predict the next token.
        last = first + logits.shape[1]
        for row in range(len(ids)):
            foretold = np.flatnonzero(learnt[row, first + 1 : last + 1]) + first + 1
            for start in range(0, len(foretold), CHUNK):
                chosen = foretold[start : start + CHUNK]
                said, wanted = logits[row, chosen - 1 - first], ids[row, chosen]
                found = said.argmax(axis=1)
                nats[row] -= log_probabilities(said, wanted).sum()
                right[row] += (found == wanted).sum()
                if length:
                    likeliest[row, chosen] = found
        if "beside.compared" in batch:
            _compare(kept, first, logits, batch)
    return {**kept, "likeliest": likeliest} if length else kept


def _nothing_compared(batch: dict[str, Any], words: int) -> dict[str, Any]:
    """Allocate what is kept of the distributions at the compared positions."""
    places = batch["beside.compared"]
    if "beside.top_words" in batch:
        return {"compared": places, "divergence": np.zeros(len(places))}
    shape = (*places.shape, min(TOP, words))
    return {
        "compared": places,
        "top_words": np.zeros(shape, np.int32),
        "top_logs": np.zeros(shape, np.float32),
    }


def _compare(kept: dict[str, Any], first: int, logits: Any, batch: dict[str, Any]) -> None:
    """Process the compared tokens predicted by a chunk of logits, the first of which is at position `first`."""
    places, given = batch["beside.compared"], batch.get("beside.top_words")
    for row in range(len(places)):
        here = np.flatnonzero((places[row] > first) & (places[row] <= first + logits.shape[1]))
        for start in range(0, len(here), CHUNK):
            part = here[start : start + CHUNK]
            logs = log_softmax(logits[row, places[row, part] - 1 - first])
            if given is None:
                words, size = kept["top_words"], kept["top_words"].shape[2]
                words[row, part] = np.argpartition(-logs, size - 1, axis=1)[:, :size]
                kept["top_logs"][row, part] = np.take_along_axis(logs, words[row, part], axis=1)
            else:
                theirs = batch["beside.top_logs"][row, part].astype(np.float64)
                own = np.take_along_axis(logs, given[row, part], axis=1)
                kept["divergence"][row] += bucketed_divergence(theirs, own).sum()


def bucketed_divergence(theirs: Any, own: Any) -> Any:
    """Return KL(theirs || own) in nats from log-probabilities (tokens, words) of some words, with all others merged.

    It is a lower bound of the divergence over all words, by the log sum inequality.
    """
    tiny = 1e-12
    rest, ours = (np.maximum(1 - np.exp(logs).sum(axis=1), tiny) for logs in (theirs, own))
    return (np.exp(theirs) * (theirs - own)).sum(axis=1) + rest * np.log(rest / ours)


def log_probabilities(logits: Any, words: Any) -> Any:
    """Return the log-probability of one word in each row of logits (n, words), float64 (n,).

    Equivalent to indexing `log_softmax`, with less memory traffic.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    chosen = shifted[np.arange(len(words)), words]
    return chosen - np.log(np.exp(shifted, out=shifted).sum(axis=-1))


def log_softmax(logits: Any) -> Any:
    """Return log-probabilities along the last axis, float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
