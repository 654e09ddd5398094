"""Encoded examples as a model takes them: the seam between what reads examples and what batches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Batch = dict[str, NDArray[Any]]
"""Inputs of a model by name. What stands beside them, for losses and scorers, has a name that begins with `BESIDE`."""
BESIDE = "beside."
LEARNT = f"{BESIDE}learnt"
"""Of texts that are gone on with: 1 for each token that is to be foretold, int64 (n, t)."""
WRITTEN = f"{BESIDE}written"
"""Of texts that the student wrote itself, of which nobody but a teacher says what is right: anything, (n, ...)."""
_Value = TypeVar("_Value")


def taken(batch: Mapping[str, _Value]) -> dict[str, _Value]:
    """The inputs of a batch alone."""
    return {name: values for name, values in batch.items() if not name.startswith(BESIDE)}


class Inputs(Protocol):
    """Encoded examples of one split, ragged, ready to be batched for a model.

    `lengths`: int64 (n,), the cost of each example (tokens; 1 each for images), for length bucketing. `input_names`
    are both the keyword arguments of the torch model and the input names of its ONNX file.
    """

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model, in its order."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """sha256 over all that a model is given: equal inputs, equal digests."""

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The examples at `indices`: token ids padded to the longest of them, int64 (len(indices), length) each, or
        pixels, float32 (len(indices), channels, height, width)."""


def against(inputs: Inputs, reference: Mapping[str, NDArray[Any]] | None) -> Inputs:
    """Inputs with what a scorer needs beside them to compare outputs with those of the baseline, where they know it.

    Args:
        reference: what is kept of the baseline's answers; None: it is the baseline that is scored.
    """
    compared: Callable[[Mapping[str, NDArray[Any]] | None], Inputs] | None = getattr(inputs, "against", None)
    return inputs if compared is None else compared(reference)


def by_row(values: NDArray[Any], inputs: Inputs) -> NDArray[Any]:
    """What is known of examples, (n, ...), for each row of their inputs: a text that is cut into windows has several,
    and its inputs say in `documents` whose each row is."""
    owners: NDArray[np.int64] | None = getattr(inputs, "documents", None)
    return values if owners is None else values[owners]
