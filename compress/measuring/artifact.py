"""Measurement of a saved artifact on a target: scores, latency relative to the baseline, memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from compress.core.artifacts import TOKENIZER, Artifact
from compress.core.plugins import import_object
from compress.core.records import Latency, Memory, TargetMeasurement
from compress.core.task_kind import TaskKind
from compress.core.terminal.progress import Advance, Progress
from compress.core.units import NS_PER_MS, megabytes
from compress.data.splits import Examples
from compress.encoding.inputs import Inputs
from compress.encoding.interface import as_model_inputs
from compress.measuring.jobs import Job, JobFolder, model_path
from compress.measuring.protocol import LATENCY_PROCESSES, PROTOCOL_VERSION
from compress.measuring.scoring import score_artifact
from compress.measuring.timing.feeds import Workloads, sample_indices
from compress.measuring.timing.latency import latency_jobs, latency_row, run_with_retries
from compress.profile.schema import MeasureSpec
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Task


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
    reference_folder: Path | None = None,
    base: Path = Path(),
    allow_code: bool = False,
) -> TargetMeasurement:
    """Measure an artifact on a target, in child processes that load only the runtime and the model.

    Args:
        artifact: the model to measure, in the form that the target's runtime loads.
        baseline: the model to compare with, in the same form.
        baseline_measurement: measurement of the baseline on the same target; None if `artifact` is the baseline, which
            is then timed against itself.
        target: the target to measure on.
        task: the task that encodes and scores the examples.
        test: the held-out examples.
        spec: settings of the latency measurement.
        seed: seed for sampling the timed examples and for the bootstrap.
        key: the measurement's key, stored in the record.
        progress: receives a progress bar.
        reference_folder: persistent folder for the baseline's outputs, with which other models are compared.
        base: folder of user code that judges answers.
        allow_code: whether that code, and the code of a torch model, may run.

    Raises:
        TargetError: the target cannot load the artifact, or failed during the measurement.
    """
    started = time.perf_counter()
    models = (model_path(baseline, target), model_path(artifact, target))
    timed_examples = test.take(sample_indices(len(test), spec.examples, seed))
    with (
        tempfile.TemporaryDirectory(prefix="compress-measure-") as name,
        progress.bar(f"measure on {target.label}", 1 + LATENCY_PROCESSES[target.spec.runtime]) as advance,
    ):
        jobs = JobFolder.of_target(Path(name), target, allow_code=allow_code)
        timed_inputs = [
            as_model_inputs(task.encode(timed_examples, one.path), one.path) for one in (baseline, artifact)
        ]
        memory_job, lengths = _memory_job(jobs, models[1], timed_inputs[1], task.kind, target)
        accuracy, (memory_result,) = score_artifact(
            jobs,
            artifact,
            baseline,
            None if baseline_measurement is None else baseline_measurement.accuracy,
            target,
            task,
            test,
            seed,
            # Like scores, memory does not depend on processes running at the same time.
            extra_jobs=[memory_job],
            reference_folder=reference_folder,
            base=base,
            allow_code=allow_code,
        )
        advance(1, f"{accuracy.metrics[0].name} {accuracy.metrics[0].value:.3f}")
        has_tokenizer = target.can_tokenize and len(timed_examples) and (artifact.path / TOKENIZER).is_file()
        tokenization = (
            {"folder": str(artifact.path), "texts": list(timed_examples.texts)} if has_tokenizer else None
        )
        latency, tokenization_ms, load_ms = _measure_latency(
            jobs, models, timed_inputs, task.kind, spec, target, seed, tokenization, advance
        )
    return TargetMeasurement(
        key=key,
        target=target.label,
        fingerprint=target.fingerprint,
        machine=target.machine_digest,
        protocol=PROTOCOL_VERSION,
        accuracy=accuracy,
        latency=latency,
        memory=memory_record(memory_result, target.spec.memory_limit_mb, lengths),
        tokenization_ms=tokenization_ms,
        load_ms=load_ms,
        seconds=time.perf_counter() - started,
    )


def _measure_latency(
    jobs: JobFolder,
    models: tuple[str, str],
    inputs: list[Inputs],
    kind: TaskKind,
    spec: MeasureSpec,
    target: ResolvedTarget,
    seed: int,
    tokenization: dict[str, Any] | None,
    advance: Advance,
) -> tuple[tuple[Latency, ...], float | None, float | None]:
    """Return the timings for every workload of the target, and the median times, in ms, to tokenize a text and to load
    the model."""
    indices = np.arange(len(inputs[0]))
    workloads = cast(Workloads, import_object(kind.workloads))
    timed = workloads(indices, target.spec.batch_sizes, target.spec.sequence_lengths)
    feeds = [
        [jobs.feeds(f"time{row}-{which}", scenario.batches(one)) for which, one in enumerate(inputs)]
        for row, scenario in enumerate(timed)
    ]
    results = []
    processes = LATENCY_PROCESSES[target.spec.runtime]
    for result in run_with_retries(
        jobs, latency_jobs(models, feeds, spec, tokenization, processes=processes)
    ):
        results.append(result)
        advance(1)
    rows = tuple(
        latency_row(scenario, results, row, scenario.mean_length(inputs[1]), seed)
        for row, scenario in enumerate(timed)
    )
    spent = results[0].get("tokenization_ns")
    loads = [result["load_ns"][1] for result in results if result.get("load_ns")]
    return rows, _median_ms(spent), _median_ms(loads)


def _median_ms(nanoseconds: Sequence[int] | None) -> float | None:
    return float(np.median(nanoseconds)) / NS_PER_MS if nanoseconds else None


def memory_record(result: dict[str, Any], limit_mb: float | None = None, lengths: str = "real") -> Memory:
    """Build the record of a memory job's result; `limit_mb` is the target's limit, `lengths` the workload."""
    gpu_peak = result["gpu_peak_bytes"]
    return Memory(
        peak_mb=megabytes(result["peak_bytes"] - result["before_load_bytes"]),
        absolute_peak_mb=megabytes(result["peak_bytes"]),
        before_load_mb=megabytes(result["before_load_bytes"]),
        gpu_peak_mb=None if gpu_peak is None else megabytes(gpu_peak),
        method=result["method"],
        limit_mb=limit_mb,
        lengths=lengths,
    )


def _memory_job(
    jobs: JobFolder, model: str, inputs: Inputs, kind: TaskKind, target: ResolvedTarget
) -> tuple[Job, str]:
    """Return the job that measures the memory of the task's first workload at the first batch size, and the workload's
    name."""
    spec, memory_workloads = target.spec, cast(Workloads, import_object(kind.memory_workloads))
    scenario = memory_workloads(np.arange(len(inputs)), spec.batch_sizes[:1], spec.sequence_lengths)[0]
    feeds = jobs.feeds("memory", scenario.batches(inputs))
    job = Job({"kind": "memory", "model": model, "feeds": feeds}, "measuring the model's memory")
    return job, scenario.lengths
