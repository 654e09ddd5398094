"""Measures a saved artifact on a target: its scores, its speed against the baseline, its memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifacts import TASK, TOKENIZER, Artifact
from compress.data.splits import UNLABELLED, Examples
from compress.measure.accuracy import accuracy_record
from compress.measure.feeds import in_order, sample_indices, scenarios
from compress.measure.jobs import Job, JobFolder, load_outputs, model_path
from compress.measure.latency import latency_jobs, latency_record, milliseconds
from compress.measure.protocol import LATENCY_PROCESSES, PROTOCOL_VERSION
from compress.profile.schema import MeasureSpec
from compress.progress import Advance, Progress
from compress.records import Accuracy, Latency, Memory, TargetMeasurement
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Inputs, Task
from compress.tasks.tokens import TokenInputs, unknown_share
from compress.units import NS_PER_MS, megabytes


def measure(
    artifact: Artifact,
    baseline: Artifact,
    baseline_measurement: TargetMeasurement | None,
    target: ResolvedTarget,
    task: Task,
    test: Examples,
    spec: MeasureSpec,
    seed: int,
    key: str,
    progress: Progress,
) -> TargetMeasurement:
    """Measure an artifact on a target, in child processes that load nothing but what runs it.

    Args:
        artifact: what is measured, in the form that the target's runtime loads.
        baseline: what it is compared with, in the same form of file.
        baseline_measurement: of the baseline on the same target; None: `artifact` is the baseline, and is
            timed against itself.
        test: the held-out examples; nothing is tuned on them here.
        seed: of the choice of the timed examples and of the bootstrap.
        key: the measurement's key, kept in the record.

    Raises:
        TargetError: the target cannot load the artifact, or failed while it was measured.
    """
    started = time.perf_counter()
    models = (model_path(baseline, target), model_path(artifact, target))
    labelled = _subset(test, np.flatnonzero(test.labels != UNLABELLED))
    sample = _subset(test, sample_indices(len(test), spec.examples, seed))
    with (
        tempfile.TemporaryDirectory(prefix="compress-measure-") as name,
        progress.bar(f"measure on {target.label}", 1 + LATENCY_PROCESSES[target.spec.runtime]) as advance,
    ):
        jobs = JobFolder.of_target(Path(name), target)
        inputs = task.encode(labelled, artifact.path)
        batch_size = target.spec.batch_sizes[0]
        scoring, outputs = jobs.accuracy(models[1], jobs.feeds("test", in_order(inputs, batch_size)))
        sampled = [task.encode(sample, one.path) for one in (baseline, artifact)]
        weighing = _memory_job(jobs, models[1], sampled[1], batch_size)
        # Neither scores nor sizes depend on what else runs, so these two may share the machine.
        _, weighed = jobs.run(scoring, weighing)
        accuracy = accuracy_record(
            task,
            load_outputs(outputs),
            labelled.labels,
            _accuracy_of(baseline_measurement),
            batch_size,
            seed,
            _unknown_share(artifact, inputs),
        )
        advance(1, f"{accuracy.metrics[0].name} {accuracy.metrics[0].value:.3f}")
        texts = sample.texts if (artifact.path / TOKENIZER).is_file() else ()
        latency, tokenization_ms = _time(
            jobs, models, sampled, spec, target, seed, _tokenization(artifact, texts), advance
        )
    return TargetMeasurement(
        key=key,
        target=target.label,
        fingerprint=target.fingerprint,
        protocol=PROTOCOL_VERSION,
        accuracy=accuracy,
        latency=latency,
        memory=memory_record(weighed),
        tokenization_ms=tokenization_ms,
        seconds=time.perf_counter() - started,
    )


def _time(
    jobs: JobFolder,
    models: tuple[str, str],
    inputs: list[Inputs],
    spec: MeasureSpec,
    target: ResolvedTarget,
    seed: int,
    tokenization: dict[str, Any] | None,
    advance: Advance,
) -> tuple[tuple[Latency, ...], float | None]:
    """Timings for every batch size and length of the target, and the median time to tokenize a text."""
    indices = np.arange(len(inputs[0]))
    timed = scenarios(indices, target.spec.batch_sizes, target.spec.sequence_lengths)
    feeds = [
        [jobs.feeds(f"time{row}-{which}", scenario.batches(one)) for which, one in enumerate(inputs)]
        for row, scenario in enumerate(timed)
    ]
    results = []
    processes = LATENCY_PROCESSES[target.spec.runtime]
    for job in latency_jobs(models, feeds, spec, tokenization, processes=processes):
        results += jobs.run(job)
        advance(1)
    rows = tuple(
        latency_record(
            scenario,
            [[milliseconds(result, row, which) for result in results] for which in range(2)],
            scenario.mean_length(inputs[1]),
            seed,
        )
        for row, scenario in enumerate(timed)
    )
    spent = results[0].get("tokenization_ns")
    return rows, float(np.median(spent)) / NS_PER_MS if spent else None


def memory_record(result: dict[str, Any]) -> Memory:
    """The record of a memory job's result."""
    gpu_peak = result["gpu_peak_bytes"]
    return Memory(
        peak_mb=megabytes(result["peak_bytes"] - result["before_load_bytes"]),
        absolute_peak_mb=megabytes(result["peak_bytes"]),
        before_load_mb=megabytes(result["before_load_bytes"]),
        gpu_peak_mb=None if gpu_peak is None else megabytes(gpu_peak),
        method=result["method"],
    )


def _memory_job(jobs: JobFolder, model: str, inputs: Inputs, batch_size: int) -> Job:
    """Load the model and run the sampled examples at the first batch size."""
    scenario = scenarios(np.arange(len(inputs)), [batch_size], [])[0]
    feeds = jobs.feeds("memory", scenario.batches(inputs))
    return Job({"kind": "memory", "model": model, "feeds": feeds}, "measuring the model's memory")


def _tokenization(artifact: Artifact, texts: tuple[str, ...]) -> dict[str, Any] | None:
    return {"folder": str(artifact.path), "texts": list(texts)} if texts else None


def _accuracy_of(measurement: TargetMeasurement | None) -> Accuracy | None:
    return None if measurement is None else measurement.accuracy


def _unknown_share(artifact: Artifact, inputs: Inputs) -> float | None:
    """Share of unknown tokens, where the inputs are tokens and the artifact names the unknown one."""
    if not isinstance(inputs, TokenInputs):
        return None
    unk_id = artifact.read_json(TASK).get("unk_id")
    return None if unk_id is None else unknown_share(inputs, int(unk_id))


def _subset(examples: Examples, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Examples:
    return Examples(tuple(examples.texts[index] for index in indices), examples.labels[indices])
