"""One step's record as one flat row under the names that scripts rely on."""

from __future__ import annotations

import math
from typing import Any

from compress.core.records import (
    COMPLETE,
    Accuracy,
    Latency,
    Metric,
    RunRecord,
    StepRecord,
    TargetMeasurement,
)
from compress.core.task_kind import MetricKind, Quantity
from compress.measuring.chance import no_better_than_chance
from compress.reporting.data.paired import retention_interval
from compress.reporting.render.numbers import known
from compress.tasks.table import metric_kind, quantities_of

CONTRACT_KEYS = (
    "step",
    "role",
    "score",
    "retention",
    "latency_p50_ms",
    "latency_p95_ms",
    "speedup",
    "throughput",
    "peak_memory_mb",
    "size_mb",
    "parameters",
    "macs",
    "seconds",
    "artifact",
)
"""The fixed names of a row. Latencies, score and memory are those of the first target and its first batch size."""


def ordered(run: RunRecord) -> tuple[StepRecord, ...]:
    """The steps with what is deployed last: controls and variants that end the run go before its last step."""
    steps = list(run.steps)
    main = [index for index, step in enumerate(steps) if step.role == "step"]
    if main:
        steps.append(steps.pop(main[-1]))
    return tuple(steps)


def baseline_of(run: RunRecord) -> StepRecord | None:
    """The FP32 baseline; None where the run failed before it was there."""
    return next((step for step in run.steps if step.role == "baseline"), None)


def deployed_of(run: RunRecord) -> StepRecord | None:
    """The step that is deployed; None where the run did not get that far."""
    if run.status not in COMPLETE:
        return None
    last = ordered(run)[-1:]
    return last[0] if last and last[0].status != "failed" else None


def beside_of(run: RunRecord, aside: StepRecord) -> StepRecord | None:
    """The step that a control or a variant belongs to, whose name its own begins with; of a variant of a model that no
    pass made, the baseline. None where the run did not get that far."""
    named = [step for step in run.steps if step.role == "step" and aside.step.startswith(step.step)]
    return max(named, key=lambda step: len(step.step)) if named else baseline_of(run)


def failed_of(run: RunRecord) -> StepRecord | None:
    """The step that failed and ended the run, if one did; rows for comparison only end none."""
    return next((step for step in run.steps if step.status == "failed" and step.role != "variant"), None)


def first_target(run: RunRecord) -> str | None:
    """The target that the flat keys and the budget mean."""
    return run.targets[0] if run.targets else None


def measured_on(step: StepRecord | None, target: str | None) -> TargetMeasurement | None:
    """What was measured of a step on a target."""
    if step is None:
        return None
    return next((found for found in step.measurements if found.target == target), None)


def all_measured(run: RunRecord, target: str | None) -> list[tuple[StepRecord, TargetMeasurement]]:
    """The steps that were measured on a target, in the report's order, and what was measured of each."""
    found = ((step, measured_on(step, target)) for step in ordered(run))
    return [(step, measured) for step, measured in found if measured is not None]


def accuracy_on(step: StepRecord | None, target: str | None) -> Accuracy | None:
    """The scores of a step on a target."""
    found = measured_on(step, target)
    return found.accuracy if found else None


def metrics_beside(run: RunRecord) -> list[MetricKind]:
    """The metrics that stand beside the primary one, where a step was scored by them."""
    scored = (found.accuracy.metrics[1:] for _, found in all_measured(run, first_target(run)))
    names = dict.fromkeys(metric.name for metrics in scored for metric in metrics)
    return [kind for kind in map(metric_kind, names) if kind.column]


def metric_on(step: StepRecord, target: str | None, name: str) -> Metric | None:
    """One metric of a step on a target."""
    accuracy = accuracy_on(step, target)
    return next((metric for metric in accuracy.metrics if metric.name == name), None) if accuracy else None


def examples_of(accuracy: Accuracy) -> int:
    """How many examples a model was scored on: classified ones, texts, or given pairs; or how much of what its metric
    counts."""
    return accuracy.metrics[0].n if accuracy.metrics and not accuracy.truth else len(accuracy.truth)


def latency_on(step: StepRecord | None, target: str | None) -> Latency | None:
    """The timings of a step on a target at its first batch size."""
    found = measured_on(step, target)
    return found.latency[0] if found and found.latency else None


def row_of(step: StepRecord, baseline: StepRecord | None, target: str | None) -> dict[str, Any]:
    """The flat row of a step: the contract's keys first, then intervals and verdicts; None where there is no number.

    `retention` of the baseline is 1, and withheld where it is no better than chance; its `speedup` is that of the A/A
    run, which times the same file twice. `baseline_p50_ms` is the baseline's median in the same rounds: over
    `latency_p50_ms` it is the speed-up. Where `disturbed` is true, the timings are as they were measured, and claim
    nothing; None: nobody knows.
    """
    found = measured_on(step, target)
    scores = score_values(step, baseline, found)
    latency = found.latency[0] if found and found.latency else None
    values: dict[str, Any] = {
        "step": step.step,
        "role": step.role,
        "score": scores["score"],
        "retention": scores["retention"],
        "latency_p50_ms": latency.p50_ms if latency else None,
        "latency_p95_ms": latency.p95_ms if latency else None,
        "speedup": latency.speedup if latency else None,
        "throughput": latency.throughput if latency else None,
        "peak_memory_mb": found.memory.peak_mb if found else None,
        "size_mb": step.size.model_mb if step.size else None,
        "parameters": step.parameters,
        "macs": step.macs,
        "seconds": step.seconds,
        "artifact": step.artifact,
        "kind": step.kind,
        "form": step.form,
        "score_low": scores["score_low"],
        "score_high": scores["score_high"],
        "retention_low": scores["retention_low"],
        "retention_high": scores["retention_high"],
        "p_value": scores["p_value"],
        "score_verdict": scores["score_verdict"],
        "latency_p50_low_ms": latency.p50_low if latency else None,
        "latency_p50_high_ms": latency.p50_high if latency else None,
        "speedup_low": latency.speedup_low if latency else None,
        "speedup_high": latency.speedup_high if latency else None,
        "latency_verdict": latency.verdict if latency else None,
        "baseline_p50_ms": latency.baseline_p50_ms if latency else None,
        "disturbed": disturbed_of(latency),
        "tokenization_ms": found.tokenization_ms if found else None,
        "load_ms": found.load_ms if found else None,
        "absolute_peak_memory_mb": found.memory.absolute_peak_mb if found else None,
        "memory_limit_mb": found.memory.limit_mb if found else None,
        "gpu_peak_memory_mb": found.memory.gpu_peak_mb if found else None,
        "tokenizer_mb": step.size.tokenizer_mb if step.size else None,
        "total_mb": step.size.total_mb if step.size else None,
        "training_seconds": step.training_seconds,
        "lower_seconds": step.lower_seconds,
        "measure_seconds": step.measure_seconds,
        "measured": step.measured,
        "error": step.error,
    }
    return {key: plain(value) for key, value in values.items()}


def rows_of(run: RunRecord, target: str | None) -> list[tuple[StepRecord, dict[str, Any]]]:
    """Each step in the report's order, and its flat row on a target, with what its task is measured by."""
    baseline = baseline_of(run)
    return [
        (step, row_of(step, baseline, target) | quantity_values(run, step, target)) for step in ordered(run)
    ]


def speed_values(run: RunRecord, step: StepRecord, target: str | None) -> tuple[float, float, float] | None:
    """What a plot sets a score against, with the ends of its interval; None where it was not measured, or was
    disturbed."""
    found, shown = measured_on(step, target), speed_of(run.task)
    one = next(iter(shown.among(found.latency) if found else ()), None)
    if one is None or one.disturbed or not known(one.p50_ms) or one.p50_ms <= 0:
        return None
    ends = (ms if known(ms) else one.p50_ms for ms in (one.p50_low, one.p50_high))
    low, high = sorted(shown.of(one, ms) for ms in ends)
    return shown.of(one), low, high


def speed_of(task: str) -> Quantity:
    """What plots set the scores of a task against: the first median that it declares to be measured by, else that of
    the latency of whatever was timed first."""
    own = (quantity for quantity in quantities_of(task) if quantity.statistic != "p95_ms")
    return next(own, Quantity("latency_p50_ms", "median latency", "ms", "", "p50_ms", "p50 ms"))


def quantity_values(run: RunRecord, step: StepRecord, target: str | None) -> dict[str, float | None]:
    """What the task of a run declares to be measured by, each at its first batch size and length."""
    found = measured_on(step, target)
    timed = found.latency if found else ()
    return {quantity.name: quantity.first(timed) for quantity in quantities_of(run.task)}


def disturbed_of(latency: Latency | None) -> bool | None:
    """Whether other processes disturbed a timing beyond use; None where that is not known."""
    return latency.disturbance.disturbed if latency is not None and latency.disturbance is not None else None


def claimed(values: dict[str, Any]) -> dict[str, Any]:
    """A flat row without the timings that claim nothing, for whatever compares rows."""
    if not values["disturbed"]:
        return values
    return {
        key: None if key.startswith(("latency_", "speedup", "baseline_p50", "throughput")) else value
        for key, value in values.items()
    }


_RETENTION = ("retention", "retention_low", "retention_high")


def score_values(
    step: StepRecord, baseline: StepRecord | None, found: TargetMeasurement | None
) -> dict[str, Any]:
    """Score, retention, their intervals and the paired verdict of one measurement; no retention beside a baseline that
    is no better than chance."""
    names = ("score", "score_low", "score_high", *_RETENTION)
    if found is None:
        return dict.fromkeys((*names, "p_value", "score_verdict"))
    accuracy = found.accuracy
    metric = accuracy.metrics[0] if accuracy.metrics else None
    is_baseline = step.role == "baseline"
    interval = None if is_baseline else retention_interval(accuracy_on(baseline, found.target), accuracy)
    values = {
        "score": metric.value if metric else None,
        "score_low": metric.low if metric else None,
        "score_high": metric.high if metric else None,
        "retention": 1.0 if is_baseline and metric else accuracy.retention,
        "retention_low": interval[0] if interval else None,
        "retention_high": interval[1] if interval else None,
        "p_value": accuracy.p_value,
        "score_verdict": accuracy.verdict,
    }
    if no_better_than_chance(step if is_baseline else baseline) is not None:
        # A share of what is worth nothing.
        values |= dict.fromkeys(_RETENTION)
    return values


def plain(value: Any) -> Any:
    """The value, or None where it is a number that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
