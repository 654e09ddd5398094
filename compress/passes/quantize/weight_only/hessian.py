"""Moments of layer inputs on training examples, accumulated in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_capture import capture_activations


@dataclass(frozen=True)
class InputMoments:
    """Moments of inputs X, one row per token: `second`: X^T X / tokens (width, width); `mean_abs`: mean of |x|
    (width,)."""

    second: NDArray[np.float64]
    mean_abs: NDArray[np.float64]


def moments_of(
    path: Path, names: Sequence[str], batches: Callable[[], Iterator[Batch]], work: Path
) -> dict[str, InputMoments]:
    """Return the moments of each named value over all batches.

    Args:
        path: the float model.
        names: values of its graph with the inputs of a layer along their last axis.
        batches: starts an iteration over unpadded inputs (a padded position is not an input).
        work: folder for a temporary instrumented graph.
    """
    second: dict[str, NDArray[np.float64]] = {}
    abs_sums: dict[str, NDArray[np.float64]] = {}
    tokens = dict.fromkeys(names, 0)
    for found in capture_activations(path, names, batches(), work):
        for name, values in found.items():
            rows = values.reshape(-1, values.shape[-1])
            if name not in second:
                second[name] = np.zeros((rows.shape[1], rows.shape[1]))
                abs_sums[name] = np.zeros(rows.shape[1])
            second[name] += rows.T @ rows
            abs_sums[name] += np.abs(rows).sum(axis=0, dtype=np.float64)
            tokens[name] += len(rows)
    return {name: InputMoments(second[name] / tokens[name], abs_sums[name] / tokens[name]) for name in names}


def second_moment(examples: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return X^T X / tokens (width, width) of inputs (..., width)."""
    second, tokens = np.zeros((1, 1)), 0
    for values in examples:
        rows = values.reshape(-1, values.shape[-1])
        second, tokens = second + rows.T @ rows, tokens + len(rows)
    return second / tokens
