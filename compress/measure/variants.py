"""Compares variants of one model on validation examples, so that a pass can pick one by measuring."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.measure.feeds import sample_indices, scenarios
from compress.measure.jobs import JobFolder, load_outputs, usable_cores
from compress.measure.latency import latency_jobs, milliseconds
from compress.profile.schema import MeasureSpec
from compress.tasks.base import Inputs, Task

TIMED = MeasureSpec(examples=50, min_seconds=1.0, min_rounds=12)
"""How the variants are timed, for each variant."""
SCORED = 1000
"""Examples scored, at most."""
PROCESSES = 2


def compare_variants(
    paths: Mapping[str, Path],
    inputs: Inputs,
    truth: NDArray[np.int64],
    task: Task,
    threads: int,
    *,
    seed: int,
    batch_size: int = 1,
) -> dict[str, tuple[float, float]]:
    """Score and time variants of one model; in child processes, timed in turns.

    Args:
        paths: the ONNX file of each variant, by name.
        inputs: encoded validation examples, the same for all variants.
        truth: their labels (n,).
        threads: of each inference.
        seed: of the choice of examples, where there are more than are needed.
        batch_size: of both the scores and the times.

    Returns:
        For each variant its score (a fraction) and its median time a batch in milliseconds.

    Raises:
        TargetError: a variant cannot be run.
    """
    chosen = np.sort(sample_indices(len(inputs), SCORED, seed))
    scored = [inputs.batch(chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size)]
    with tempfile.TemporaryDirectory(prefix="compress-variants-") as name:
        jobs = JobFolder(Path(name), "onnxruntime", "cpu", threads, "quantization variants")
        feeds = jobs.feeds("scored", scored)
        made = [
            jobs.accuracy(str(path), feeds, f"outputs-{number}") for number, path in enumerate(paths.values())
        ]
        together = max(1, usable_cores() // threads)
        for start in range(0, len(made), together):
            jobs.run(*(job for job, _ in made[start : start + together]))
        scores = [task.score(load_outputs(outputs), truth[chosen]).value for _, outputs in made]
        scenario = scenarios(sample_indices(len(inputs), TIMED.examples, seed), [batch_size], [])[0]
        timed = jobs.feeds("timed", scenario.batches(inputs))
        spec = TIMED.model_copy(update={"min_seconds": TIMED.min_seconds * len(paths)})
        files = [str(path) for path in paths.values()]
        results = []
        for job in latency_jobs(files, [[timed] * len(files)], spec, processes=PROCESSES):
            results += jobs.run(job)
    times = [
        float(np.median(np.concatenate([milliseconds(result, 0, which) for result in results])))
        for which in range(len(files))
    ]
    return dict(zip(paths, zip(scores, times, strict=True), strict=True))
