"""Timing scenarios of language models: prefill of a prompt, and decoding of one more token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.encoding.inputs import Batch, Inputs
from compress.encoding.tokens import ATTENTION_MASK, INPUT_IDS
from compress.measuring.timing.feeds import Scenario
from compress.runtimes.runner import CACHE_CAPACITY, LOGIT_POSITIONS
from compress.tasks.causal_lm.kind import ANSWER_TOKENS, PROMPT_TOKENS


@dataclass(frozen=True)
class Prefill(Scenario):
    """Prefill of a prompt of `length` tokens: its latency is the time to the first token."""

    @property
    def lengths(self) -> str:
        """`read:128`, the name in records."""
        return f"read:{self.length}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """Return prompts of exactly `length` tokens made from the texts, requesting the logits of the last position."""
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
        """Number of tokens of the prompt."""
        assert self.length is not None
        return self.length

    def tokens(self, inputs: Inputs, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return token ids (rows, length): each text repeated or truncated to that length."""
        return np.stack([np.resize(inputs.batch([index])[INPUT_IDS][0], self.size) for index in row])


@dataclass(frozen=True)
class Decode(Prefill):
    """Decoding of one token after `length` tokens that are already in the KV cache."""

    @property
    def lengths(self) -> str:
        """`write:128`, the name in records."""
        return f"write:{self.length}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """Return the last token alone; the length of the mask implies the number of cached tokens."""
        return [
            {
                INPUT_IDS: self.tokens(inputs, row)[:, -1:],
                ATTENTION_MASK: np.ones((len(row), self.size + 1), np.int64),
                LOGIT_POSITIONS: np.zeros((len(row), 1), np.int64),
            }
            for row in self.indices
        ]


@dataclass(frozen=True)
class PrefillAndDecode(Prefill):
    """Prefill of `length` tokens and decoding of `ANSWER_TOKENS` more, one at a time, in a preallocated KV cache."""

    @property
    def lengths(self) -> str:
        """`read:128 write:32`, the name in records."""
        return f"read:{self.length} write:{ANSWER_TOKENS}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """Return the prompt, followed by its last token repeatedly in place of generated tokens."""
        steps = []
        for row in self.indices:
            tokens = self.tokens(inputs, row)
            for past in (0, *range(self.size, self.size + ANSWER_TOKENS)):
                num_new = 1 if past else self.size
                steps.append(
                    {
                        INPUT_IDS: tokens[:, -num_new:],
                        ATTENTION_MASK: np.ones((len(row), past + num_new), np.int64),
                        LOGIT_POSITIONS: np.full((len(row), 1), num_new - 1, np.int64),
                        CACHE_CAPACITY: np.full(len(row), self.size + ANSWER_TOKENS, np.int64),
                    }
                )
        return steps


def memory_workloads(
    indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Scenario]:
    """Return the scenario for memory measurement: two answers to the longest prompt, at the first batch size."""
    size = batch_sizes[0]
    return [PrefillAndDecode(size, max(lengths or (PROMPT_TOKENS,)), np.resize(indices, (2, size)))]


def workloads(
    indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Scenario]:
    """Return scenarios by length and batch size: decoding first, to which flat keys and budgets refer, then prefill."""
    return [
        scenario_type(size, length, np.resize(indices, (max(1, len(indices) // size), size)))
        for scenario_type in (Decode, Prefill)
        for length in lengths or (PROMPT_TOKENS,)
        for size in batch_sizes
    ]
