"""What is kept of a language model's outputs: sums a window. Runs beside `runner.py`: Python 3.9, numpy alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

TOP = 64
"""Words of which the baseline's log-probability is kept at a token; the rest of its mass is one more."""
CHUNK = 64
"""Tokens whose logits are looked at together: a copy of all of them would be as large as the outputs."""
WHOLE = 2**26
"""Logits of a window that a model gives in one run, at most: 256 MiB."""
PIECE = 2**24
"""Logits of a run, about so many at most, where a window has more."""


class Pieces:
    """Logits (1, tokens, words) of a long window, some tokens at a time, each behind the cache of those before it."""

    def __init__(self, model: Any, batch: dict[str, Any], tokens: int) -> None:
        self._model, self._batch, self._tokens = model, batch, tokens
        self._first = self._run(0)
        self.shape = (*batch["input_ids"].shape, self._first.shape[2])
        self.ndim = 3

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """The place of the first token of each piece, and the piece; once."""
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
    """Logits (n, tokens, words) of a batch: an array, or `Pieces` where it would be large and the model can go on."""
    ids, words = batch["input_ids"], settings.get("words", 0)
    if len(ids) > 1 or ids.size * words <= WHOLE or not getattr(model, "goes_on", False):
        return np.asarray(model(batch), np.float32)
    return Pieces(model, batch, max(1, PIECE // words))


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
        # A token is foretold by what stands before it.
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
    """What is kept of the distributions at the tokens that are compared, before any is."""
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
    """Add the tokens that these logits foretell, of which the first are those of the token at `first`."""
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
    """KL(theirs || own) in nats of log-probabilities (tokens, words) of some words, all others taken for one.

    It is no larger than that of all words, by the log sum inequality.
    """
    tiny = 1e-12
    rest, ours = (np.maximum(1 - np.exp(logs).sum(axis=1), tiny) for logs in (theirs, own))
    return (np.exp(theirs) * (theirs - own)).sum(axis=1) + rest * np.log(rest / ours)


def log_probabilities(logits: Any, words: Any) -> Any:
    """The log-probability of one word in each row of logits (n, words), float64 (n,): as `log_softmax`, with less to
    hold and to write."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    chosen = shifted[np.arange(len(words)), words]
    return chosen - np.log(np.exp(shifted, out=shifted).sum(axis=-1))


def log_softmax(logits: Any) -> Any:
    """Log-probabilities along the last axis, float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
