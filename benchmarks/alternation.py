"""Many files of one model, timed in turns with each other by the runner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.encoding.inputs import Inputs
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.feeds import sample_indices, scenarios
from compress.measuring.timing.latency import milliseconds, time_models
from compress.profile.schema import MeasureSpec

PROCESSES = 4


def times_in_turns(
    jobs: JobFolder, files: Sequence[Path], inputs: Inputs, spec: MeasureSpec
) -> list[list[NDArray[np.float64]]]:
    """Milliseconds of every round at batch 1 and real lengths, (rounds,) for each file and each process.

    Args:
        spec: how many of the inputs are drawn, and how long all files together are timed.
    """
    scenario = scenarios(sample_indices(len(inputs), spec.examples, seed=0), [1], [])[0]
    feeds = jobs.feeds("timed", scenario.batches(inputs))
    results = time_models(
        jobs, [str(file) for file in files], [[feeds] * len(files)], spec, processes=PROCESSES
    )
    return [[milliseconds(result, 0, which) for result in results] for which in range(len(files))]
