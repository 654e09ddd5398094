"""Generate tokens with a decoder's session: numpy alone (Python 3.9), copied into bundles beside `runner.py`.

A decoder takes new tokens and the cache of keys and values of those before them, and gives logits for the tokens that
are asked for. The cache is one buffer for past and present, which the session writes into: nothing is copied
from step to step. Prompts of unlike lengths stand left in their rows, padding behind them, and each row goes on where
its own prompt ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]


class Sampling(NamedTuple):
    """How the next token is drawn. `temperature` 0: always the likeliest one.

    `top_k`: among the k likeliest, 0: all. `top_p`: among the likeliest that together have this probability (Holtzman
    et al., "The Curious Case of Neural Text Degeneration", 2019). `seed`: of every row's own random numbers.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()
TOP_P_CANDIDATES = 64
"""So many of the likeliest tokens are looked at first for `top_p`."""


class Decoder:
    """A session with a cache: rows of tokens that grow.

    Args:
        session: a decoder's, a `CachedSession` of `runner.py`.
        capacity: how many tokens a row can hold.
    """

    supports_refill = True
    """Whether rows can be added to those that go on already."""

    def __init__(self, session: Any, capacity: int) -> None:
        self.session, self.capacity = session, capacity
        self.lengths: Ids = np.zeros(0, np.int64)
        self.buffers: list[Any] = []
        self.cache: Any = None

    def start(self, prompts: Sequence[Sequence[int]], max_rows: int = 0) -> Logits:
        """Read prompts anew -> logits (rows, words) of the token after each. There will be `max_rows` rows at once."""
        self.lengths = np.zeros(len(prompts), np.int64)
        self.buffers = self.session.allocate_cache(max(max_rows, len(prompts)), self.capacity)
        self._bind()
        return self.append_tokens(prompts)

    def append_tokens(self, tokens: Sequence[Sequence[int]]) -> Logits:
        """Add tokens to the rows -> logits (rows, words) of the token after them.

        Only one row, or rows that are empty or get one token each, can be read: the operator knows no other case.

        Raises:
            ValueError: rows get no token, more than there is room for, or several tokens where they may not.
        """
        counts = np.array([len(row) for row in tokens], np.int64)
        if len(counts) != len(self.lengths) or not counts.all():
            raise ValueError("every row needs a token to read")
        if len(counts) > 1 and self.lengths.any() and counts.max() > 1:
            raise ValueError("rows that have been read already go on one token at a time")
        self.lengths = self.lengths + counts
        if self.lengths.max() > self.capacity:
            raise ValueError(f"there is room for {self.capacity} tokens, and {self.lengths.max()} are needed")
        ids = np.zeros((len(counts), counts.max()), np.int64)
        for row, row_tokens in zip(ids, tokens):  # noqa: B905 (no `strict` before Python 3.10)
            row[: len(row_tokens)] = row_tokens
        mask = (np.arange(self.lengths.max()) < self.lengths[:, None]).astype(np.int64)
        batch = {"input_ids": ids, "attention_mask": mask, "logit_positions": counts[:, None] - 1}
        logits: Logits = self.session.run(batch, self.cache)[:, 0]
        return logits

    def select_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order; those that stay where they are cost nothing."""
        moved_to = [target for target, row in enumerate(rows) if target != row]
        if moved_to:
            sources, used = [rows[target] for target in moved_to], int(self.lengths.max())
            for buffer in self.buffers:
                buffer[moved_to, :, :used] = buffer[sources, :, :used]
        self.lengths = self.lengths[list(rows)]
        self._bind()

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read prompts as further rows, behind those that there are -> their logits (prompts, words).

        Raises:
            ValueError: there is no room for so many rows or tokens.
        """
        prefill = Decoder(self.session, max(map(len, prompts)))
        first, last = len(self.lengths), len(self.lengths) + len(prompts)
        if prefill.capacity > self.capacity or last > len(self.buffers[0]):
            raise ValueError(f"there is room for {len(self.buffers[0])} rows of {self.capacity} tokens")
        logits = prefill.start(prompts)
        for buffer, filled in zip(self.buffers, prefill.buffers):  # noqa: B905
            buffer[first:last, :, : prefill.capacity] = filled
        self.lengths = np.concatenate([self.lengths, prefill.lengths])
        self._bind()
        return logits

    def _bind(self) -> None:
        """Hand the session the rows that there are."""
        self.cache = self.session.bind_cache([buffer[: len(self.lengths)] for buffer in self.buffers])


class _Generation:
    """A row that is written: its number, the tokens to read next, its random numbers, how many it may still write."""

    def __init__(self, index: int, tokens: Sequence[int], rng: np.random.Generator, remaining: int) -> None:
        self.index, self.tokens, self.rng, self.remaining = index, tokens, rng, remaining

    def draw(self, logits: Logits, sampling: Sampling) -> int:
        token = sample_token(logits, sampling, self.rng)
        self.tokens, self.remaining = [token], self.remaining - 1
        return token


def stream(
    decoder: Any,
    prompts: Iterable[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    max_rows: int | None = None,
    seeds_for: Callable[[int], Sequence[int]] | None = None,
    should_stop: Callable[[int, int], bool] = lambda row, token: False,
) -> Iterator[tuple[int, int]]:
    """Generate row by row and token by token: (row, token) as each is known.

    A row ends after one of the tokens `stop_ids`, which is given too, after `max_new_tokens` tokens, or where it is
    `should_stop`; the next prompt takes its place. What a row draws does not depend on the rows beside it: each has
    random numbers of its own.

    Args:
        decoder: with room for the longest prompt and `max_new_tokens` tokens.
        prompts: token ids, at least one a row; they are taken when there is a place for them.
        max_rows: rows at once, at most; None: all.
        seeds_for: what a row's random numbers come from; None: the seed of the sampling, and the row.
        should_stop: asked after each token of a row.
    """
    pending = enumerate(prompts)

    def next_rows(count: int | None) -> list[_Generation]:
        return [
            _Generation(
                row,
                prompt,
                np.random.default_rng(seeds_for(row) if seeds_for else [sampling.seed, row]),
                max_new_tokens,
            )
            for row, prompt in itertools.islice(pending, count)
        ]

    rows = next_rows(max_rows) if max_new_tokens > 0 else []
    logits = decoder.start([row.tokens for row in rows], max_rows or 0) if rows else []
    while rows:
        tokens = [row.draw(found, sampling) for row, found in zip(rows, logits)]  # noqa: B905
        yield from ((row.index, token) for row, token in zip(rows, tokens))  # noqa: B905
        active = [
            position
            for position, (row, token) in enumerate(zip(rows, tokens))  # noqa: B905
            if not (should_stop(row.index, token) or token in stop_ids or row.remaining == 0)
        ]
        new = []
        if len(active) < len(rows):
            free = 0 if max_rows is None else max_rows - len(active)
            new = next_rows(free) if decoder.supports_refill or not active else []
            order = compacted_order(active)
            rows = [rows[position] for position in order]
            if rows:
                decoder.select_rows(order)
        if rows:
            logits = decoder.append_tokens([row.tokens for row in rows])
        if new:
            new_tokens = [row.tokens for row in new]
            logits = (
                np.concatenate([logits, decoder.add_rows(new_tokens)])
                if rows
                else decoder.start(new_tokens, max_rows or 0)
            )
        rows += new


def compacted_order(kept_rows: Sequence[int]) -> list[int]:
    """Places in an order in which as few as possible move: those at the end fill the gaps."""
    staying = {row for row in kept_rows if row < len(kept_rows)}
    moving = [row for row in kept_rows if row >= len(kept_rows)]
    return [row if row in staying else moving.pop() for row in range(len(kept_rows))]


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> list[list[int]]:
    """What `stream` gives, row by row."""
    found: list[list[int]] = [[] for _ in prompts]
    for row, token in stream(decoder, prompts, max_new_tokens, stop_ids, sampling):
        found[row].append(token)
    return found


def outputs(model: Any, batch: dict[str, Any], settings: dict[str, Any]) -> NDArray[np.float32]:
    """What a job of `runner.py` makes of prompts `input_ids`, (rows, tokens) with an `attention_mask`: greedy answers.

    Args:
        settings: `most` tokens of an answer, the tokens `ends`, and how many rows are written `together`.

    Returns:
        Token ids (rows, most), which floats hold exactly; -1 after the end of an answer.
    """
    prompts = [
        row[row_mask > 0].tolist()
        for row, row_mask in zip(batch["input_ids"], batch["attention_mask"])  # noqa: B905
    ]
    capacity = batch["input_ids"].shape[1] + settings["most"]
    decoder = model.decoder(capacity) if hasattr(model, "decoder") else Decoder(model, capacity)
    tokens = np.full((len(prompts), settings["most"]), -1, np.float32)
    lengths = [0] * len(prompts)
    for row, token in stream(
        decoder, prompts, settings["most"], settings["ends"], max_rows=settings["together"]
    ):
        tokens[row, lengths[row]] = token
        lengths[row] += 1
    return tokens


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What is kept of those: `written`, int32."""
    return {"written": outputs.astype(np.int32)}


def sample_token(logits: Logits, sampling: Sampling, rng: np.random.Generator) -> int:
    """The next token by its logits (words,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    if sampling.top_k:
        candidates = top_tokens(logits, sampling.top_k)
        probabilities = exp_logits(logits[candidates], logits, sampling.temperature)
        probabilities /= probabilities.sum()
    else:
        all_probabilities = exp_logits(logits, logits, sampling.temperature)
        all_probabilities /= all_probabilities.sum()
        candidates, probabilities = np.arange(len(logits)), all_probabilities
        # Few tokens have most of the chances: to sort all of them would take as long as the model.
        count = TOP_P_CANDIDATES
        while sampling.top_p < 1:
            candidates = top_tokens(logits, count)
            probabilities = all_probabilities[candidates]
            if probabilities.sum() > sampling.top_p or len(candidates) == len(logits):
                break
            count *= TOP_P_CANDIDATES
    if sampling.top_p < 1:
        # The token that reaches `top_p` belongs to those that are drawn from.
        probabilities = probabilities[: int(np.searchsorted(probabilities.cumsum(), sampling.top_p)) + 1]
    cumulative = probabilities.cumsum()
    position = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return int(candidates[min(position, len(probabilities) - 1)])


def exp_logits(selected: Logits, logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Some of the logits, as e to their distance from the largest of all over the temperature."""
    return np.exp((selected.astype(np.float64) - float(logits.max())) / temperature)


def top_tokens(logits: Logits, count: int) -> Ids:
    """The tokens with the `count` largest logits, the largest first; of equal ones the first."""
    candidates = np.arange(len(logits))
    if count < len(logits):
        candidates = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    return candidates[np.argsort(-logits[candidates], kind="stable")][:count]
