"""Encoded examples as model inputs: the interface between the encoding of examples and their batching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Batch = dict[str, NDArray[Any]]
"""Model inputs by name. Extra arrays for losses and scorers have names that begin with `EXTRA`."""
EXTRA = "beside."
LOSS_MASK = f"{EXTRA}learnt"
"""For language modelling: 1 for each token to predict, else 0; int64 (n, t)."""
SELF_GENERATED = f"{EXTRA}written"
"""Marks texts that the student generated itself, for which only a teacher gives targets: any array, (n, ...)."""
_Value = TypeVar("_Value")


def model_inputs(batch: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return only the model inputs of a batch."""
    return {name: values for name, values in batch.items() if not name.startswith(EXTRA)}


class Inputs(Protocol):
    """Encoded examples of one split, ragged, ready to be batched for a model.

    `lengths`: int64 (n,), the cost of each example (number of tokens; 1 for images), for length bucketing.
    `input_names` are both the keyword arguments of the torch model and the input names of its ONNX file.
    """

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in its order."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """Return the sha256 of everything that is fed to a model; equal inputs have equal digests."""

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the examples at `indices`.

        Either token ids padded to the longest of them, int64 (len(indices), length) each, or pixel values, float32
        (len(indices), channels, height, width).
        """


def with_reference(inputs: Inputs, reference: Mapping[str, NDArray[Any]] | None) -> Inputs:
    """Return the inputs with the extra arrays that a scorer needs to compare outputs with the baseline's, if supported.

    Args:
        reference: what is stored of the baseline's outputs; None when scoring the baseline itself.
    """
    attach_reference: Callable[[Mapping[str, NDArray[Any]] | None], Inputs] | None = getattr(
        inputs, "against", None
    )
    return inputs if attach_reference is None else attach_reference(reference)


def per_row(values: NDArray[Any], inputs: Inputs) -> NDArray[Any]:
    """Map per-example values, (n, ...), to the rows of the inputs.

    A text that is cut into windows has several rows; the `documents` of its inputs hold the example index of each row.
    """
    row_examples: NDArray[np.int64] | None = getattr(inputs, "documents", None)
    return values if row_examples is None else values[row_examples]
