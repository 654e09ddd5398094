"""What is timed of a language model: reading a prompt, and writing one more token behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.encoding.inputs import Batch, Inputs
from compress.encoding.tokens import ATTENTION_MASK, INPUT_IDS
from compress.measuring.timing.feeds import Scenario
from compress.runtimes.runner import LOGIT_POSITIONS, ROOM
from compress.tasks.causal_lm.kind import ANSWER, PROMPT


@dataclass(frozen=True)
class Reading(Scenario):
    """A prompt of `length` tokens is read: its time is that to the first token."""

    @property
    def lengths(self) -> str:
        """`read:128`, as records name it."""
        return f"read:{self.length}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """Prompts of exactly `length` tokens from the texts, and the logits of the last one."""
        return [
            {
                INPUT_IDS: self.tokens(inputs, row),
                ATTENTION_MASK: np.ones((len(row), self.size), np.int64),
                LOGIT_POSITIONS: np.full((len(row), 1), self.size - 1, np.int64),
            }
            for row in self.indices
        ]

    @property
    def size(self) -> int:
        """Tokens of the prompt."""
        assert self.length is not None
        return self.length

    def tokens(self, inputs: Inputs, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token ids (rows, length): each text repeated from its start, or cut."""
        return np.stack([np.resize(inputs.batch([index])[INPUT_IDS][0], self.size) for index in row])


@dataclass(frozen=True)
class Writing(Reading):
    """One token is written behind `length` tokens that are in the cache already."""

    @property
    def lengths(self) -> str:
        """`write:128`, as records name it."""
        return f"write:{self.length}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """The last token alone; the mask says how many stand before it."""
        return [
            {
                INPUT_IDS: self.tokens(inputs, row)[:, -1:],
                ATTENTION_MASK: np.ones((len(row), self.size + 1), np.int64),
                LOGIT_POSITIONS: np.zeros((len(row), 1), np.int64),
            }
            for row in self.indices
        ]


@dataclass(frozen=True)
class Answering(Reading):
    """A prompt of `length` tokens is read and `ANSWER` are written behind it, one at a time, with room in the cache for
    both."""

    @property
    def lengths(self) -> str:
        """`read:128 write:32`, as records name it."""
        return f"read:{self.length} write:{ANSWER}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """The prompt, and then its last token again and again, as what the model would have written."""
        made = []
        for row in self.indices:
            tokens = self.tokens(inputs, row)
            for past in (0, *range(self.size, self.size + ANSWER)):
                new = 1 if past else self.size
                made.append(
                    {
                        INPUT_IDS: tokens[:, -new:],
                        ATTENTION_MASK: np.ones((len(row), past + new), np.int64),
                        LOGIT_POSITIONS: np.full((len(row), 1), new - 1, np.int64),
                        ROOM: np.full(len(row), self.size + ANSWER, np.int64),
                    }
                )
        return made


def weighed(indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]) -> list[Scenario]:
    """Two answers to the longest prompt, at the first batch size: what a device must hold for it."""
    size = batch_sizes[0]
    return [Answering(size, max(lengths or (PROMPT,)), np.resize(indices, (2, size)))]


def workloads(
    indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Scenario]:
    """Writing first, which is what flat keys and budgets mean, and reading, at each length and batch size."""
    return [
        kind(size, length, np.resize(indices, (max(1, len(indices) // size), size)))
        for kind in (Writing, Reading)
        for length in lengths or (PROMPT,)
        for size in batch_sizes
    ]
