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
NUCLEUS = 64
"""So many of the likeliest tokens are looked at first for `top_p`."""


class Decoder:
    """A session with a cache: rows of tokens that grow.

    Args:
        session: a decoder's, a `CachedSession` of `runner.py`.
        room: how many tokens a row can hold.
    """

    refills = True
    """Whether rows can be added to those that go on already."""

    def __init__(self, session: Any, room: int) -> None:
        self.session, self.room = session, room
        self.lengths: Ids = np.zeros(0, np.int64)
        self.buffers: list[Any] = []
        self.cache: Any = None

    def start(self, prompts: Sequence[Sequence[int]], most: int = 0) -> Logits:
        """Read prompts anew -> logits (rows, words) of the token after each. There will be `most` rows at once."""
        self.lengths = np.zeros(len(prompts), np.int64)
        self.buffers = self.session.empty(max(most, len(prompts)), self.room)
        self._bind()
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
        """Go on with some of the rows, in this order; those that stay where they are cost nothing."""
        moved = [place for place, row in enumerate(rows) if place != row]
        if moved:
            sources, used = [rows[place] for place in moved], int(self.lengths.max())
            for buffer in self.buffers:
                buffer[moved, :, :used] = buffer[sources, :, :used]
        self.lengths = self.lengths[list(rows)]
        self._bind()

    def add(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read prompts as further rows, behind those that there are -> their logits (prompts, words).

        Raises:
            ValueError: there is no room for so many rows or tokens.
        """
        beside = Decoder(self.session, max(map(len, prompts)))
        first, last = len(self.lengths), len(self.lengths) + len(prompts)
        if beside.room > self.room or last > len(self.buffers[0]):
            raise ValueError(f"there is room for {len(self.buffers[0])} rows of {self.room} tokens")
        logits = beside.start(prompts)
        for buffer, filled in zip(self.buffers, beside.buffers):  # noqa: B905
            buffer[first:last, :, : beside.room] = filled
        self.lengths = np.concatenate([self.lengths, beside.lengths])
        self._bind()
        return logits

    def _bind(self) -> None:
        """Hand the session the rows that there are."""
        self.cache = self.session.bound([buffer[: len(self.lengths)] for buffer in self.buffers])


class _Row:
    """A row that is written: its number, the tokens to read next, its random numbers, how many it may still write."""

    def __init__(self, number: int, tokens: Sequence[int], random: np.random.Generator, left: int) -> None:
        self.number, self.tokens, self.random, self.left = number, tokens, random, left

    def draw(self, logits: Logits, sampling: Sampling) -> int:
        token = draw(logits, sampling, self.random)
        self.tokens, self.left = [token], self.left - 1
        return token


def stream(
    decoder: Any,
    prompts: Iterable[Sequence[int]],
    most: int,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    together: int | None = None,
    seeds: Callable[[int], Sequence[int]] | None = None,
    stopped: Callable[[int, int], bool] = lambda row, token: False,
) -> Iterator[tuple[int, int]]:
    """Generate row by row and token by token: (row, token) as each is known.

    A row ends after one of the tokens `ends`, which is given too, after `most` tokens, or where it is `stopped`; the
    next prompt takes its place. What a row draws does not depend on the rows beside it: each has random numbers of its
    own.

    Args:
        decoder: with room for the longest prompt and `most` tokens.
        prompts: token ids, at least one a row; they are taken when there is a place for them.
        together: rows at once, at most; None: all.
        seeds: what a row's random numbers come from; None: the seed of the sampling, and the row.
        stopped: asked after each token of a row.
    """
    waiting = enumerate(prompts)

    def begun(count: int | None) -> list[_Row]:
        return [
            _Row(row, prompt, np.random.default_rng(seeds(row) if seeds else [sampling.seed, row]), most)
            for row, prompt in itertools.islice(waiting, count)
        ]

    rows = begun(together) if most > 0 else []
    logits = decoder.start([row.tokens for row in rows], together or 0) if rows else []
    while rows:
        tokens = [row.draw(found, sampling) for row, found in zip(rows, logits)]  # noqa: B905
        yield from ((row.number, token) for row, token in zip(rows, tokens))  # noqa: B905
        going = [
            place
            for place, (row, token) in enumerate(zip(rows, tokens))  # noqa: B905
            if not (stopped(row.number, token) or token in ends or row.left == 0)
        ]
        new = []
        if len(going) < len(rows):
            free = 0 if together is None else together - len(going)
            new = begun(free) if decoder.refills or not going else []
            order = closed_up(going)
            rows = [rows[place] for place in order]
            if rows:
                decoder.keep(order)
        if rows:
            logits = decoder.read([row.tokens for row in rows])
        if new:
            read = [row.tokens for row in new]
            logits = (
                np.concatenate([logits, decoder.add(read)]) if rows else decoder.start(read, together or 0)
            )
        rows += new


def closed_up(places: Sequence[int]) -> list[int]:
    """Places in an order in which as few as possible move: those at the end fill the gaps."""
    staying = {place for place in places if place < len(places)}
    moving = [place for place in places if place >= len(places)]
    return [place if place in staying else moving.pop() for place in range(len(places))]


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


def outputs(model: Any, batch: dict[str, Any], settings: dict[str, Any]) -> NDArray[np.float32]:
    """What a job of `runner.py` makes of prompts `input_ids`, (rows, tokens) with an `attention_mask`: greedy answers.

    Args:
        settings: `most` tokens of an answer, the tokens `ends`, and how many rows are written `together`.

    Returns:
        Token ids (rows, most), which floats hold exactly; -1 after the end of an answer.
    """
    prompts = [row[kept > 0].tolist() for row, kept in zip(batch["input_ids"], batch["attention_mask"])]  # noqa: B905
    room = batch["input_ids"].shape[1] + settings["most"]
    decoder = model.decoder(room) if hasattr(model, "decoder") else Decoder(model, room)
    written = np.full((len(prompts), settings["most"]), -1, np.float32)
    lengths = [0] * len(prompts)
    for row, token in stream(
        decoder, prompts, settings["most"], settings["ends"], together=settings["together"]
    ):
        written[row, lengths[row]] = token
        lengths[row] += 1
    return written


def answers(outputs: Any, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What is kept of those: `written`, int32."""
    return {"written": outputs.astype(np.int32)}


def draw(logits: Logits, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token by its logits (words,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    if sampling.top_k:
        order = likeliest(logits, sampling.top_k)
        chances = powers(logits[order], logits, sampling.temperature)
        chances /= chances.sum()
    else:
        every = powers(logits, logits, sampling.temperature)
        every /= every.sum()
        order, chances = np.arange(len(logits)), every
        # Few tokens have most of the chances: to sort all of them would take as long as the model.
        count = NUCLEUS
        while sampling.top_p < 1:
            order = likeliest(logits, count)
            chances = every[order]
            if chances.sum() > sampling.top_p or len(order) == len(logits):
                break
            count *= NUCLEUS
    if sampling.top_p < 1:
        # The token that reaches `top_p` belongs to those that are drawn from.
        chances = chances[: int(np.searchsorted(chances.cumsum(), sampling.top_p)) + 1]
    reached = chances.cumsum()
    place = int(np.searchsorted(reached, random.random() * reached[-1], side="right"))
    return int(order[min(place, len(chances) - 1)])


def powers(chosen: Logits, logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Some of the logits, as e to their distance from the largest of all over the temperature."""
    return np.exp((chosen.astype(np.float64) - float(logits.max())) / temperature)


def likeliest(logits: Logits, count: int) -> Ids:
    """The tokens with the `count` largest logits, the largest first; of equal ones the first."""
    chosen = np.arange(len(logits))
    if count < len(logits):
        chosen = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    return chosen[np.argsort(-logits[chosen], kind="stable")][:count]
