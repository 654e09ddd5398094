"""Reduce a language model's logits to sums per window. Runs beside `runner.py`: Python 3.9 and numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

TOP_TOKENS = 64
"""Number of most likely tokens whose baseline log-probabilities are kept; the remaining mass is one more bucket."""
CHUNK_TOKENS = 64
"""Number of tokens processed at once: a copy of all logits would be as large as the outputs."""
WHOLE = 2**26
"""Maximum number of logits of a window that are computed in a single run: 256 MiB."""
PIECE = 2**24
"""Approximate maximum number of logits per run if a window has more."""


class ChunkedLogits:
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
        chunk = {
            "input_ids": np.ascontiguousarray(ids[:, start:end]),
            "attention_mask": np.ascontiguousarray(mask[:, :end]),
            "logit_positions": np.arange(end - start)[None],
            "cache_room": np.array([ids.shape[1]]),
        }
        return np.asarray(self._model(chunk), np.float32)


def outputs(model: Any, batch: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return logits (n, tokens, words) of a batch: an array, or `ChunkedLogits` if large and the model has a KV
    cache."""
    ids, vocabulary_size = batch["input_ids"], settings.get("words", 0)
    if len(ids) > 1 or ids.size * vocabulary_size <= WHOLE or not getattr(model, "goes_on", False):
        return np.asarray(model(batch), np.float32)
    return ChunkedLogits(model, batch, max(1, PIECE // vocabulary_size))


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Reduce logits (n, tokens, words) to sums over the scored tokens of each window, and most likely tokens.

    `nats` float64 (n,): negative log-likelihood of the tokens; `tokens`, `correct`, `bytes`, `document` int64 (n,);
    `likeliest` int32 (n, `settings["length"]`), if that is set: the most likely token at each scored position, else -1.
    If the batch has positions to be `compared`, also `top_words` and `top_logs` (n, tokens, `TOP_TOKENS`) at these; or,
    if it holds the baseline's, `divergence` float64 (n,): KL(baseline || model), summed over them.

    Raises:
        ValueError: the outputs are not logits of every token.
    """
    ids, is_target = batch["input_ids"], np.asarray(batch["beside.learnt"], bool)
    if outputs.ndim != 3 or outputs.shape[:2] != ids.shape:
        raise ValueError("the outputs are not one row of logits per token")
    nats, correct = np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    length = settings.get("length", 0)
    likeliest = np.full((len(ids), length), -1, np.int32)
    results = {
        "nats": nats,
        "tokens": is_target[:, 1:].sum(axis=1).astype(np.int64),
        "right": correct,
        "bytes": np.asarray(batch["beside.bytes"], np.int64),
        "document": np.asarray(batch["beside.document"], np.int64),
    }
    if "beside.compared" in batch:
        results.update(_empty_comparison(batch, outputs.shape[2]))
    for first, logits in outputs if isinstance(outputs, ChunkedLogits) else [(0, outputs)]:
        # The logits at a position predict the next token.
        last = first + logits.shape[1]
        for row in range(len(ids)):
            targets = np.flatnonzero(is_target[row, first + 1 : last + 1]) + first + 1
            for start in range(0, len(targets), CHUNK_TOKENS):
                positions = targets[start : start + CHUNK_TOKENS]
                target_logits, target_ids = logits[row, positions - 1 - first], ids[row, positions]
                predicted = target_logits.argmax(axis=1)
                nats[row] -= log_probabilities(target_logits, target_ids).sum()
                correct[row] += (predicted == target_ids).sum()
                if length:
                    likeliest[row, positions] = predicted
        if "beside.compared" in batch:
            _compare(results, first, logits, batch)
    return {**results, "likeliest": likeliest} if length else results


def _empty_comparison(batch: dict[str, Any], vocabulary_size: int) -> dict[str, Any]:
    """Allocate what is kept of the distributions at the compared positions."""
    positions = batch["beside.compared"]
    if "beside.top_words" in batch:
        return {"compared": positions, "divergence": np.zeros(len(positions))}
    shape = (*positions.shape, min(TOP_TOKENS, vocabulary_size))
    return {
        "compared": positions,
        "top_words": np.zeros(shape, np.int32),
        "top_logs": np.zeros(shape, np.float32),
    }


def _compare(results: dict[str, Any], first: int, logits: Any, batch: dict[str, Any]) -> None:
    """Process the compared tokens predicted by a chunk of logits, the first of which is at position `first`."""
    positions, baseline_tokens = batch["beside.compared"], batch.get("beside.top_words")
    for row in range(len(positions)):
        indices = np.flatnonzero((positions[row] > first) & (positions[row] <= first + logits.shape[1]))
        for start in range(0, len(indices), CHUNK_TOKENS):
            chunk = indices[start : start + CHUNK_TOKENS]
            logs = log_softmax(logits[row, positions[row, chunk] - 1 - first])
            if baseline_tokens is None:
                top_tokens, top_k = results["top_words"], results["top_words"].shape[2]
                top_tokens[row, chunk] = np.argpartition(-logs, top_k - 1, axis=1)[:, :top_k]
                results["top_logs"][row, chunk] = np.take_along_axis(logs, top_tokens[row, chunk], axis=1)
            else:
                baseline_logs = batch["beside.top_logs"][row, chunk].astype(np.float64)
                model_logs = np.take_along_axis(logs, baseline_tokens[row, chunk], axis=1)
                results["divergence"][row] += bucketed_divergence(baseline_logs, model_logs).sum()


def bucketed_divergence(baseline: Any, model: Any) -> Any:
    """Return KL(theirs || own) in nats from log-probabilities (tokens, words) of some words, with all others merged.

    It is a lower bound of the divergence over all words, by the log sum inequality.
    """
    tiny = 1e-12
    baseline_rest, model_rest = (np.maximum(1 - np.exp(logs).sum(axis=1), tiny) for logs in (baseline, model))
    return (np.exp(baseline) * (baseline - model)).sum(axis=1) + baseline_rest * np.log(
        baseline_rest / model_rest
    )


def log_probabilities(logits: Any, token_ids: Any) -> Any:
    """Return the log-probability of one word in each row of logits (n, words), float64 (n,).

    Equivalent to indexing `log_softmax`, with less memory traffic.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    chosen = shifted[np.arange(len(token_ids)), token_ids]
    return chosen - np.log(np.exp(shifted, out=shifted).sum(axis=-1))


def log_softmax(logits: Any) -> Any:
    """Return log-probabilities along the last axis, float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
