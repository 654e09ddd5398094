"""Calibration examples drawn from the training split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import Artifact
from compress.encoding.inputs import Batch, Inputs
from compress.step import StepContext


def calibration_batches(
    ctx: StepContext, source: Artifact, count: int, tokens: int | None = None
) -> Callable[[], Iterator[Batch]]:
    """Return a function that starts an iteration over `count` training examples, drawn with the run's seed.

    Each batch holds one example, hence no padding; a long text becomes several windows, each a batch of its own.

    Args:
        tokens: draw windows of these examples at random until they hold this many tokens; None: use all windows.
    """
    train = ctx.data.train
    random = np.random.default_rng(ctx.seed)
    indices = np.sort(random.permutation(len(train))[:count])

    @cache
    def read() -> tuple[Inputs, NDArray[np.int64]]:
        # Encoded once, and only if a method reads examples at all.
        inputs = ctx.task.encode(train.take(indices), source.path)
        order = random.permutation(len(inputs))
        lengths = inputs.lengths[order]
        return inputs, np.sort(order if tokens is None else order[lengths.cumsum() - lengths < tokens])

    def batches() -> Iterator[Batch]:
        inputs, chosen = read()
        return (inputs.batch([index]) for index in chosen)

    return batches
