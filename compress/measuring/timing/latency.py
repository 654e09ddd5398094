"""Timing of a model in alternation with the baseline, in several processes, and evaluation of the times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Disturbance, Latency
from compress.core.units import MS_PER_S, NS_PER_MS
from compress.encoding.inputs import Batch
from compress.measuring.jobs import Job, JobFolder
from compress.measuring.protocol import SPEED_RESOLUTION
from compress.measuring.statistics import Interval, bootstrap_medians, percentile
from compress.measuring.timing.disturbance import any_disturbed, counted_rounds, disturbance
from compress.measuring.timing.feeds import Scenario
from compress.profile.schema import MeasureSpec

UNDISTURBED_PERCENTILE = 5
"""Percentile of the rounds of an input that is taken as its undisturbed time. With other load on the machine, the lower
quartile was up to 1.5 times this for a model whose weights fill the caches, unlike for a small model."""


class VariantTimes(NamedTuple):
    """Milliseconds per batch of several models, and whether the timing is unusable because of other processes."""

    ms: tuple[float, ...]
    disturbed: bool


def latency_jobs(
    models: Sequence[str],
    feeds: Sequence[Sequence[str]],
    spec: MeasureSpec,
    tokenization: dict[str, Any] | None = None,
    *,
    processes: int,
) -> Iterator[Job]:
    """Yield the jobs that time models in alternation, to be run one after another.

    Args:
        models: paths of the models, the baseline first.
        feeds: for each scenario, the path of the batches of each model.
        spec: settings; time and rounds are divided among the processes.
        tokenization: folder of a tokenizer and the texts to time, for the first process.
        processes: number of processes.
    """
    order = list(range(len(models)))
    for process in range(processes):
        body = {
            "kind": "latency",
            "models": list(models),
            # With several threads the model loaded last tends to be faster, so the order rotates.
            "load_order": [*order[process % len(order) :], *order[: process % len(order)]],
            "scenarios": [{"feeds": list(paths)} for paths in feeds],
            "seconds": spec.min_seconds / processes,
            "rounds": -(-spec.min_rounds // processes),
            "share": [process, processes],
            "tokenization": tokenization if process == 0 else None,
        }
        yield Job(body, "timing the model")


def time_models(
    jobs: JobFolder,
    models: Sequence[str],
    feeds: Sequence[Sequence[str]],
    spec: MeasureSpec,
    *,
    processes: int,
    patient: bool = True,
) -> list[dict[str, Any]]:
    """Run `latency_jobs` one after another and return their results.

    Args:
        jobs: runs the jobs.
        models: as in `latency_jobs`, like `feeds`, `spec` and `processes`.
        patient: repeat disturbed rounds.

    Raises:
        TargetError: a model cannot be run.
    """
    return list(
        run_with_retries(jobs, latency_jobs(models, feeds, spec, processes=processes), patient=patient)
    )


def run_with_retries(
    jobs: JobFolder, timing_jobs: Iterable[Job], *, patient: bool = True
) -> Iterator[dict[str, Any]]:
    """Run the jobs of one timing one after another, repeating disturbed rounds within the run's patience.

    Once a process stays disturbed, the whole timing is, so later ones repeat nothing.

    Raises:
        TargetError: a model cannot be run.
    """
    for job in timing_jobs:
        allowance = jobs.patience.allowance() if patient else 0.0
        (result,) = jobs.run(Job({**job.body, "patience_s": allowance}, job.purpose))
        jobs.patience.spend(sum(one.get("patient_s", 0.0) for one in result["scenarios"]))
        patient = patient and not any_disturbed([result])
        yield result


def time_separately(
    jobs: JobFolder, models: Sequence[str], feeds: str, spec: MeasureSpec, *, processes: int
) -> list[list[dict[str, Any]]]:
    """Time each model in separate processes, in alternation, and return the results for each model.

    This is how a model runs when it is deployed alone: sharing a process with another model evicts the weights of a
    large model from the caches, but not those of a small one.

    Args:
        jobs: runs the jobs.
        models: paths of the models.
        feeds: path of the batches, the same for all models.
        spec: time and rounds for each model.
        processes: number of processes for each model.

    Raises:
        TargetError: a model cannot be run.
    """
    jobs_by_model = [list(latency_jobs([model], [[feeds]], spec, processes=processes)) for model in models]
    results: list[list[dict[str, Any]]] = [[] for _ in models]
    for round_jobs in zip(*jobs_by_model, strict=True):
        for model_results, result in zip(results, run_with_retries(jobs, round_jobs), strict=True):
            model_results.append(result)
    return results


def undisturbed_separately(
    jobs: JobFolder, files: Sequence[Path], batches: Sequence[Batch], spec: MeasureSpec, *, processes: int
) -> VariantTimes:
    """Time ONNX files on the same batches in separate processes; milliseconds per batch as in `undisturbed_ms`.

    Raises:
        TargetError: a file cannot be run.
    """
    feeds = jobs.feeds("timed", batches)
    results = time_separately(jobs, [str(file) for file in files], feeds, spec, processes=processes)
    times = tuple(undisturbed_ms(each, 0) for each in results)
    return VariantTimes(times, any(any_disturbed(each) for each in results))


def latency_row(
    scenario: Scenario, results: Sequence[dict[str, Any]], scenario_index: int, mean_tokens: float, seed: int
) -> Latency:
    """Build the record of scenario number `scenario_index` from the results of the processes that timed baseline and
    model."""
    masks = [counted_rounds(result, scenario_index, (0, 1)) for result in results]
    samples = [
        [
            milliseconds(result, scenario_index, model_index)[mask]
            for result, mask in zip(results, masks, strict=True)
        ]
        for model_index in range(2)
    ]
    return latency_record(scenario, samples, mean_tokens, seed, disturbance(results, scenario_index))


def latency_record(
    scenario: Scenario,
    samples: Sequence[Sequence[NDArray[np.float64]]],
    mean_tokens: float,
    seed: int,
    disturbed_by: Disturbance | None = None,
) -> Latency:
    """Build the record of a timing.

    Args:
        scenario: the timed workload.
        samples: for the baseline and the model, for each process, milliseconds of each round that counts.
        mean_tokens: mean length of the examples.
        seed: seed of the bootstrap.
        disturbed_by: interference by other processes.
    """
    baseline, model = ([np.round(group, 4) for group in groups] for groups in samples)
    p50, speedup = bootstrap_medians(baseline, model, seed)
    times, baseline_times = np.concatenate(model), np.concatenate(baseline)
    return Latency(
        batch_size=scenario.batch_size,
        lengths=scenario.lengths,
        mean_tokens=mean_tokens,
        rounds=len(times),
        p50_ms=p50.value,
        p50_low=p50.low,
        p50_high=p50.high,
        p95_ms=percentile(times, 95),
        baseline_p50_ms=float(np.median(baseline_times)),
        speedup=speedup.value,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        verdict=None if disturbed_by is not None and disturbed_by.disturbed else speed_verdict(speedup),
        throughput=scenario.batch_size * MS_PER_S / float(times.mean()),
        samples_ms=tuple(times.tolist()),
        baseline_samples_ms=tuple(baseline_times.tolist()),
        disturbance=disturbed_by,
    )


def speed_verdict(speedup: Interval) -> Literal["faster", "slower", "no difference"]:
    """Return the verdict on a speedup; there is a difference if the whole interval exceeds `SPEED_RESOLUTION`."""
    if speedup.low > 1 + SPEED_RESOLUTION:
        return "faster"
    if speedup.high < 1 / (1 + SPEED_RESOLUTION):
        return "slower"
    return "no difference"


def undisturbed_ms(results: Sequence[dict[str, Any]], model: int) -> float:
    """Estimate the undisturbed time of a model: the 5th percentile of each input over all processes, then the median
    over the inputs.

    For comparing models that were timed separately on a machine with other load; reports contain the measured times
    instead.

    Args:
        results: results of the processes that shared one latency job with one scenario.
        model: index of the model in the job.
    """
    masks = [counted_rounds(result, 0, (model,)) for result in results]
    times, inputs = (
        np.concatenate([values[mask] for values, mask in zip(series, masks, strict=True)])
        for series in (
            [milliseconds(result, 0, model) for result in results],
            [np.asarray(result["scenarios"][0]["inputs"]) for result in results],
        )
    )
    return float(
        np.median(
            [np.percentile(times[inputs == each], UNDISTURBED_PERCENTILE) for each in np.unique(inputs)]
        )
    )


def median_ms(results: Sequence[dict[str, Any]], model: int) -> float:
    """Return the median of a model's counted rounds, for latency jobs with one scenario."""
    times = [milliseconds(result, 0, model)[counted_rounds(result, 0, (model,))] for result in results]
    return float(np.median(np.concatenate(times)))


def milliseconds(result: dict[str, Any], scenario: int, model: int) -> NDArray[np.float64]:
    """Return the times of one model in one scenario of a latency job's result, in milliseconds."""
    return np.asarray(result["scenarios"][scenario]["samples_ns"][model], dtype=np.float64) / NS_PER_MS
