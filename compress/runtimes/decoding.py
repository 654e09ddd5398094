"""Generate tokens with a decoder's session: numpy alone (Python 3.9), copied into bundles beside `runner.py`.

A decoder takes new tokens and the cache of keys and values of those before them, and gives logits for the tokens that
are asked for. The cache is one buffer for past and present, which the session writes into: nothing is copied
from step to step. Prompts of unlike lengths stand left in their rows, padding behind them, and each row goes on where
its own prompt ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class Decoder:
    """A session with a cache: rows of tokens that grow.

    Args:
        session: a decoder's, a `CachedSession` of `runner.py`.
        room: how many tokens a row can hold.
    """

    def __init__(self, session: Any, room: int) -> None:
        self.session, self.room = session, room
        self.lengths: Ids = np.zeros(0, np.int64)
        self.cache: list[Any] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read prompts anew -> logits (rows, words) of the token after each."""
        self.lengths = np.zeros(len(prompts), np.int64)
        self.cache = self.session.empty(len(prompts), self.room)
        return self.read(prompts)

    def read(self, tokens: Sequence[Sequence[int]]) -> Logits:
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
        if self.lengths.max() > self.room:
            raise ValueError(f"there is room for {self.room} tokens, and {self.lengths.max()} are needed")
        ids = np.zeros((len(counts), counts.max()), np.int64)
        for row, given in zip(ids, tokens):  # noqa: B905 (no `strict` before Python 3.10)
            row[: len(given)] = given
        mask = (np.arange(self.lengths.max()) < self.lengths[:, None]).astype(np.int64)
        batch = {"input_ids": ids, "attention_mask": mask, "logit_positions": counts[:, None] - 1}
        logits: Logits = self.session.run(batch, self.cache)[:, 0]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order."""
        self.lengths = self.lengths[list(rows)]
        self.cache = [buffer.ortvalue_from_numpy(buffer.numpy()[list(rows)]) for buffer in self.cache]


def stream(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[tuple[int, int]]:
    """Generate row by row and token by token: (row, token) as each is known.

    A row ends after one of the tokens `ends`, which is given too, or after `most` tokens. What a row gets does not
    depend on the rows beside it: each has random numbers of its own.

    Args:
        decoder: with room for the longest prompt and `most` tokens.
        prompts: token ids, at least one a row.
    """
    if most < 1:
        return
    rows = list(range(len(prompts)))
    random = [np.random.default_rng([sampling.seed, row]) for row in rows]
    logits = decoder.start(prompts)
    for count in range(1, most + 1):
        tokens = [draw(row, sampling, random[index]) for row, index in zip(logits, rows)]  # noqa: B905
        yield from zip(rows, tokens)  # noqa: B905
        going = [place for place, token in enumerate(tokens) if token not in ends]
        if not going or count == most:
            return
        if len(going) < len(rows):
            decoder.keep(going)
            rows, tokens = [rows[place] for place in going], [tokens[place] for place in going]
        logits = decoder.read([[token] for token in tokens])


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> list[list[int]]:
    """What `stream` gives, row by row."""
    found: list[list[int]] = [[] for _ in prompts]
    for row, token in stream(decoder, prompts, most, ends, sampling):
        found[row].append(token)
    return found


def draw(logits: Logits, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token by its logits (words,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    # The token that reaches `top_p` belongs to those that are drawn from.
    kept = int(np.searchsorted(chances.cumsum(), sampling.top_p)) + 1
    chances = chances[:kept] / chances[:kept].sum()
    return int(order[min(random.choice(len(chances), p=chances), len(order) - 1)])
