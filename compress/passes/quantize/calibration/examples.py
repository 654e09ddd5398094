"""The training examples that quantizing learns from."""

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
    """Starts an iteration over `count` training examples, drawn by the seed, one at a time and so without padding.

    A long text is several windows, one at a time too.

    Args:
        tokens: read windows of these examples, drawn as well, until they hold so many; None: all of them.
    """
    train = ctx.data.train
    random = np.random.default_rng(ctx.seed)
    drawn = np.sort(random.permutation(len(train))[:count])

    @cache
    def read() -> tuple[Inputs, NDArray[np.int64]]:
        # Encoded once, and only where a method reads examples at all.
        inputs = ctx.task.encode(train.take(drawn), source.path)
        order = random.permutation(len(inputs))
        lengths = inputs.lengths[order]
        return inputs, np.sort(order if tokens is None else order[lengths.cumsum() - lengths < tokens])

    def batches() -> Iterator[Batch]:
        inputs, chosen = read()
        return (inputs.batch([index]) for index in chosen)

    return batches
