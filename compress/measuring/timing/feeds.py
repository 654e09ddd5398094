"""Selection of the timed examples and their grouping into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.units import MIB
from compress.encoding.inputs import Batch, Inputs

PART_BYTES = 256 * MIB
"""Maximum bytes of inputs that are held at once while a model is scored."""


@dataclass(frozen=True)
class Scenario:
    """A workload to time: indices of examples (batches, batch_size), at real lengths or at a fixed one."""

    batch_size: int
    length: int | None
    indices: NDArray[np.int64]

    @property
    def lengths(self) -> str:
        """Name of the lengths in records: `real` or, for example, `fixed:128`."""
        return "real" if self.length is None else f"fixed:{self.length}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """Build the batches for a model whose encoding of all examples is `inputs`."""
        if self.length is None:
            return [inputs.batch(row) for row in self.indices]
        return [fixed_batch(inputs, row, self.length) for row in self.indices]

    def mean_length(self, inputs: Inputs) -> float:
        """Return the mean length of the examples without padding."""
        return float(inputs.lengths[self.indices].mean()) if self.length is None else float(self.length)


Workloads = Callable[[NDArray[np.int64], Sequence[int], Sequence[int]], Sequence[Scenario]]
"""Builds the workloads of a task from the sampled examples and the target's batch sizes and fixed lengths. Records
identify a workload by batch size and `lengths`; flat keys and budgets refer to the first one."""


def sample_indices(n: int, count: int, seed: int) -> NDArray[np.int64]:
    """Sample `count` of `n` indices without replacement, or all in random order if there are fewer."""
    return np.random.default_rng(seed).permutation(n)[:count].astype(np.int64)


def scenarios(
    indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Scenario]:
    """Return a scenario for every batch size at real lengths, then for every batch size at each fixed length.

    Batches take the examples in the given order and drop a smaller last batch. If there are fewer examples than one
    batch, they are repeated to fill it.
    """
    made = []
    for length in (None, *lengths):
        for size in batch_sizes:
            num_batches = max(1, len(indices) // size)
            made.append(Scenario(size, length, np.resize(indices, (num_batches, size))))
    return made


def fixed_batch(inputs: Inputs, indices: Sequence[int] | NDArray[np.int64], length: int) -> Batch:
    """Build a batch of examples with exactly `length` tokens each, without padding, by repeating or truncating them.

    Returns:
        int64 (len(indices), length) for each input.
    """
    rows = [inputs.batch([int(index)]) for index in indices]
    return {
        name: np.concatenate([np.resize(row[name], (1, length)) for row in rows])
        for name in inputs.input_names
    }


def sequential_batches(inputs: Inputs, batch_size: int) -> Iterator[Batch]:
    """Yield all examples in order, in batches of `batch_size`; the last one may be smaller."""
    indices = np.arange(len(inputs))
    for start in range(0, len(inputs), batch_size):
        yield inputs.batch(indices[start : start + batch_size])


def split_by_bytes(batches: Iterable[Batch], max_bytes: int = PART_BYTES) -> Iterator[list[Batch]]:
    """Group batches into lists of at most `max_bytes`, but at least one batch, to limit memory."""
    group: list[Batch] = []
    remaining = max_bytes
    for batch in batches:
        size = sum(array.nbytes for array in batch.values())
        if group and size > remaining:
            yield group
            group, remaining = [], max_bytes
        group.append(batch)
        remaining -= size
    if group:
        yield group
