"""Comparing the outputs of a file with those of the model it was made from, on real inputs of several shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK, Artifact
from compress.core.errors import PassError
from compress.data.splits import Examples
from compress.encoding.inputs import Batch, model_inputs
from compress.runtimes.runner import OnnxRuntime
from compress.tasks.base import Task

Outputs = NDArray[np.float32]

RELATIVE_TOLERANCE = 1e-4
"""Allowed difference relative to the largest absolute output: float32 sums in another order differ by about 1e-6."""
MAX_EXAMPLES = 64
BATCH_SIZE = 8


@dataclass(frozen=True)
class NamedBatch:
    """A named batch to compare on."""

    name: str
    batch: Batch

    @property
    def axes(self) -> str:
        """Meaning of the numbers in the name."""
        ranks = {values.ndim for values in self.batch.values()}
        return "batch x tokens" if ranks == {2} else "batch x channels x height x width"


def real_batches(task: Task, examples: Examples, model: Artifact) -> list[NamedBatch]:
    """Return batches of real inputs.

    Texts: one token, the shortest and the longest alone, a padded batch, and full length. Images: batches of one and
    of eight.
    """
    some = examples.take(range(min(MAX_EXAMPLES, len(examples))))
    inputs = task.encode(some, model.path)
    by_length = np.argsort(inputs.lengths, kind="stable")
    # Evenly spaced in order of length: short texts beside long ones, so that there is padding.
    selections = (np.linspace(0, len(by_length) - 1, BATCH_SIZE).astype(np.int64), [0], [-1])
    mixed, shortest, longest = (model_inputs(inputs.batch(by_length[selection])) for selection in selections)
    task_settings = model.read_json(TASK)
    if "image" in task_settings:
        batches = [shortest, mixed]
    else:
        first_token = {name: values[:, :1] for name, values in shortest.items()}
        batches = [
            first_token,
            shortest,
            longest,
            mixed,
            _full_length(longest, int(task_settings["max_length"])),
        ]
    return [NamedBatch(_batch_name(batch), batch) for batch in batches]


def compare_outputs(
    path: Path,
    batches: Sequence[NamedBatch],
    expected: Callable[[Batch], Outputs],
    relative_tolerance: float = RELATIVE_TOLERANCE,
) -> dict[str, float]:
    """Return the largest absolute difference between the file's outputs and `expected`, by shape.

    Args:
        path: an ONNX or ORT file.
        batches: batches to compare on.
        expected: batch -> outputs float32 (batch, labels or width) of the reference model.
        relative_tolerance: allowed difference relative to the largest absolute expected output (at least 1).

    Raises:
        PassError: a difference is above the limit, or the file does not run at a shape.
    """
    predict = OnnxRuntime().open(str(path), 1, "cpu")
    differences = {}
    for named_batch in batches:
        expected_outputs = expected(named_batch.batch)
        try:
            outputs = predict(dict(named_batch.batch))
        except Exception as error:
            # onnxruntime raises its own classes, which share no base class but Exception.
            raise PassError(
                f"the file does not run at {named_batch.name}: {error}", where=str(path)
            ) from error
        tolerance = relative_tolerance * max(1.0, float(np.abs(expected_outputs).max()))
        difference = (
            float(np.abs(outputs - expected_outputs).max())
            if outputs.shape == expected_outputs.shape
            else float("inf")
        )
        if not difference <= tolerance:
            raise PassError(
                f"outputs at {named_batch.name} ({named_batch.axes}) differ from the model's by {difference:.3g}; "
                f"the limit is {tolerance:.3g}",
                where=str(path),
            )
        differences[named_batch.name] = difference
    return differences


def onnx_predictor(path: Path) -> Callable[[Batch], Outputs]:
    """Return a function from a batch to the first output of an ONNX file."""
    predict = OnnxRuntime().open(str(path), 1, "cpu")
    return lambda batch: np.asarray(predict(dict(batch)), np.float32)


def _full_length(batch: Mapping[str, NDArray[Any]], length: int) -> Batch:
    """Repeat one example until it has `length` tokens."""
    return {name: np.resize(values, (1, length)) for name, values in batch.items()}


def _batch_name(batch: Batch) -> str:
    return "x".join(str(size) for size in next(iter(batch.values())).shape)
