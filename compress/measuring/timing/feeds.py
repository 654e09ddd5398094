"""Which examples are timed, and how they are grouped into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.units import MIB
from compress.encoding.inputs import Batch, Inputs

PART_BYTES = 256 * MIB
"""Inputs that are held at once while a model is scored."""


@dataclass(frozen=True)
class Scenario:
    """One thing to time: examples (batches, batch_size) of the sample, at real lengths or at a fixed one."""

    batch_size: int
    length: int | None
    indices: NDArray[np.int64]

    @property
    def lengths(self) -> str:
        """`real` or `fixed:128`, as records name it."""
        return "real" if self.length is None else f"fixed:{self.length}"

    def batches(self, inputs: Inputs) -> list[Batch]:
        """The batches for a model whose encoding of all examples is `inputs`."""
        if self.length is None:
            return [inputs.batch(row) for row in self.indices]
        return [fixed_batch(inputs, row, self.length) for row in self.indices]

    def mean_length(self, inputs: Inputs) -> float:
        """Mean length of the examples, padding left out."""
        return float(inputs.lengths[self.indices].mean()) if self.length is None else float(self.length)


Workloads = Callable[[NDArray[np.int64], Sequence[int], Sequence[int]], Sequence[Scenario]]
"""What is timed of a task: from the drawn examples, the batch sizes and the fixed lengths that a target asks for.
Records name each by its batch size and `lengths`; the first one is what flat keys and budgets mean."""


def sample_indices(n: int, count: int, seed: int) -> NDArray[np.int64]:
    """`count` of `n` examples without repeats, or all of them in random order where there are fewer."""
    return np.random.default_rng(seed).permutation(n)[:count].astype(np.int64)


def scenarios(
    indices: NDArray[np.int64], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Scenario]:
    """Every batch size at real lengths, then every batch size at each fixed length.

    Batches take the examples in the order they were drawn; a last, smaller one is left out. Fewer examples
    than one batch are repeated to fill it.
    """
    made = []
    for length in (None, *lengths):
        for size in batch_sizes:
            rows = max(1, len(indices) // size)
            made.append(Scenario(size, length, np.resize(indices, (rows, size))))
    return made


def fixed_batch(inputs: Inputs, indices: Sequence[int] | NDArray[np.int64], length: int) -> Batch:
    """Examples made exactly `length` long without padding: repeated from their start, or cut.

    Returns:
        int64 (len(indices), length) for each input.
    """
    rows = [inputs.batch([int(index)]) for index in indices]
    return {
        name: np.concatenate([np.resize(row[name], (1, length)) for row in rows])
        for name in inputs.input_names
    }


def in_order(inputs: Inputs, batch_size: int) -> Iterator[Batch]:
    """All examples in their order, `batch_size` at a time; the last batch may be smaller."""
    every = np.arange(len(inputs))
    for start in range(0, len(inputs), batch_size):
        yield inputs.batch(every[start : start + batch_size])


def parts(batches: Iterable[Batch], most_bytes: int = PART_BYTES) -> Iterator[list[Batch]]:
    """Batches in lists that stay below `most_bytes`, one batch at least each: what is held in memory at once."""
    part: list[Batch] = []
    room = most_bytes
    for batch in batches:
        size = sum(array.nbytes for array in batch.values())
        if part and size > room:
            yield part
            part, room = [], most_bytes
        part.append(batch)
        room -= size
    if part:
        yield part
