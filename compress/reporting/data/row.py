"""A step's record as one flat row with stable key names for scripts."""

from __future__ import annotations

import math
from typing import Any

from compress.core.records import (
    COMPLETE_STATUSES,
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
"""The stable keys of a row. Latency, score and memory are those of the first target and its first batch size."""


def ordered_steps(run: RunRecord) -> tuple[StepRecord, ...]:
    """Return the steps with the deployed one last: controls and variants at the end of the run precede it."""
    steps = list(run.steps)
    main = [index for index, step in enumerate(steps) if step.role == "step"]
    if main:
        steps.append(steps.pop(main[-1]))
    return tuple(steps)


def baseline_of(run: RunRecord) -> StepRecord | None:
    """Return the FP32 baseline; None if the run failed before it."""
    return next((step for step in run.steps if step.role == "baseline"), None)


def deployed_of(run: RunRecord) -> StepRecord | None:
    """Return the deployed step; None if the run did not get that far."""
    if run.status not in COMPLETE_STATUSES:
        return None
    last = ordered_steps(run)[-1:]
    return last[0] if last and last[0].status != "failed" else None


def partner_of(run: RunRecord, comparison: StepRecord) -> StepRecord | None:
    """Return the step that a control or variant belongs to: the one whose name is a prefix of its own, else the
    baseline.

    The baseline is the partner of variants of a model that no pass produced. None if the run did not get that far.
    """
    candidates = [step for step in run.steps if step.role == "step" and comparison.step.startswith(step.step)]
    return max(candidates, key=lambda step: len(step.step)) if candidates else baseline_of(run)


def failed_of(run: RunRecord) -> StepRecord | None:
    """Return the step whose failure ended the run, if any; failed variants do not end a run."""
    return next((step for step in run.steps if step.status == "failed" and step.role != "variant"), None)


def first_target(run: RunRecord) -> str | None:
    """Return the target that the flat keys and the budget refer to."""
    return run.targets[0] if run.targets else None


def measurement_on(step: StepRecord | None, target: str | None) -> TargetMeasurement | None:
    """Return the measurement of a step on a target; None if there is none."""
    if step is None:
        return None
    return next((measurement for measurement in step.measurements if measurement.target == target), None)


def measurements_on(run: RunRecord, target: str | None) -> list[tuple[StepRecord, TargetMeasurement]]:
    """Return the steps that were measured on a target, in report order, with their measurements."""
    pairs = ((step, measurement_on(step, target)) for step in ordered_steps(run))
    return [(step, measurement) for step, measurement in pairs if measurement is not None]


def accuracy_on(step: StepRecord | None, target: str | None) -> Accuracy | None:
    """Return the scores of a step on a target; None if there are none."""
    measurement = measurement_on(step, target)
    return measurement.accuracy if measurement else None


def secondary_metrics(run: RunRecord) -> list[MetricKind]:
    """Return the secondary metrics with a column of their own that some step was scored by."""
    scored = (measurement.accuracy.metrics[1:] for _, measurement in measurements_on(run, first_target(run)))
    names = dict.fromkeys(metric.name for metrics in scored for metric in metrics)
    return [kind for kind in map(metric_kind, names) if kind.column]


def metric_on(step: StepRecord, target: str | None, name: str) -> Metric | None:
    """Return one metric of a step on a target; None if there is none."""
    accuracy = accuracy_on(step, target)
    return next((metric for metric in accuracy.metrics if metric.name == name), None) if accuracy else None


def examples_of(accuracy: Accuracy) -> int:
    """Return the number of examples that a model was scored on, or of whatever its metric counts."""
    return accuracy.metrics[0].n if accuracy.metrics and not accuracy.truth else len(accuracy.truth)


def latency_on(step: StepRecord | None, target: str | None) -> Latency | None:
    """Return the timing of a step on a target at its first batch size; None if there is none."""
    measurement = measurement_on(step, target)
    return measurement.latency[0] if measurement and measurement.latency else None


def row_of(step: StepRecord, baseline: StepRecord | None, target: str | None) -> dict[str, Any]:
    """Return the flat row of a step: the contract's keys first, then intervals and verdicts; None for missing numbers.

    `retention` of the baseline is 1, or None if it is no better than chance; its `speedup` is that of the A/A run,
    which times the same file twice. `baseline_p50_ms` is the baseline's median in the same rounds: divided by
    `latency_p50_ms` it is the speed-up. If `disturbed` is True, the timings are reported as measured but are not
    reliable; None: unknown.
    """
    measurement = measurement_on(step, target)
    scores = score_values(step, baseline, measurement)
    latency = measurement.latency[0] if measurement and measurement.latency else None
    values: dict[str, Any] = {
        "step": step.step,
        "role": step.role,
        "score": scores["score"],
        "retention": scores["retention"],
        "latency_p50_ms": latency.p50_ms if latency else None,
        "latency_p95_ms": latency.p95_ms if latency else None,
        "speedup": latency.speedup if latency else None,
        "throughput": latency.throughput if latency else None,
        "peak_memory_mb": measurement.memory.peak_mb if measurement else None,
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
        "tokenization_ms": measurement.tokenization_ms if measurement else None,
        "load_ms": measurement.load_ms if measurement else None,
        "absolute_peak_memory_mb": measurement.memory.absolute_peak_mb if measurement else None,
        "memory_limit_mb": measurement.memory.limit_mb if measurement else None,
        "gpu_peak_memory_mb": measurement.memory.gpu_peak_mb if measurement else None,
        "tokenizer_mb": step.size.tokenizer_mb if step.size else None,
        "total_mb": step.size.total_mb if step.size else None,
        "training_seconds": step.training_seconds,
        "lower_seconds": step.lower_seconds,
        "measure_seconds": step.measure_seconds,
        "measured": step.measured,
        "error": step.error,
    }
    return {key: finite(value) for key, value in values.items()}


def rows_of(run: RunRecord, target: str | None) -> list[tuple[StepRecord, dict[str, Any]]]:
    """Return each step in report order with its flat row on a target, including the quantities of its task."""
    baseline = baseline_of(run)
    return [
        (step, row_of(step, baseline, target) | quantity_values(run, step, target))
        for step in ordered_steps(run)
    ]


def speed_interval(run: RunRecord, step: StepRecord, target: str | None) -> tuple[float, float, float] | None:
    """Return (value, low, high) of the quantity of `speed_of`; None if it was not measured, or was disturbed."""
    measurement, quantity = measurement_on(step, target), speed_of(run.task)
    timing = next(iter(quantity.matching(measurement.latency) if measurement else ()), None)
    if timing is None or timing.disturbed or not known(timing.p50_ms) or timing.p50_ms <= 0:
        return None
    bounds = (ms if known(ms) else timing.p50_ms for ms in (timing.p50_low, timing.p50_high))
    low, high = sorted(quantity.value_of(timing, ms) for ms in bounds)
    return quantity.value_of(timing), low, high


def speed_of(task: str) -> Quantity:
    """Return the quantity that plots set a task's score against.

    This is the first median among the quantities that the task declares, else the median latency at the first batch
    size.
    """
    medians = (quantity for quantity in quantities_of(task) if quantity.statistic != "p95_ms")
    return next(medians, Quantity("latency_p50_ms", "median latency", "ms", "", "p50_ms", "p50 ms"))


def quantity_values(run: RunRecord, step: StepRecord, target: str | None) -> dict[str, float | None]:
    """Return the quantities that the run's task declares, each at its first batch size and length."""
    measurement = measurement_on(step, target)
    timed = measurement.latency if measurement else ()
    return {quantity.name: quantity.first_value(timed) for quantity in quantities_of(run.task)}


def disturbed_of(latency: Latency | None) -> bool | None:
    """Whether other processes disturbed a timing too much to use it; None if unknown."""
    return latency.disturbance.disturbed if latency is not None and latency.disturbance is not None else None


def without_disturbed(values: dict[str, Any]) -> dict[str, Any]:
    """Return a flat row without disturbed timings, for comparisons between rows."""
    if not values["disturbed"]:
        return values
    return {
        key: None if key.startswith(("latency_", "speedup", "baseline_p50", "throughput")) else value
        for key, value in values.items()
    }


_RETENTION = ("retention", "retention_low", "retention_high")


def score_values(
    step: StepRecord, baseline: StepRecord | None, measurement: TargetMeasurement | None
) -> dict[str, Any]:
    """Return score, retention, their intervals and the paired verdict of one measurement.

    Retention is None if the baseline is no better than chance.
    """
    names = ("score", "score_low", "score_high", *_RETENTION)
    if measurement is None:
        return dict.fromkeys((*names, "p_value", "score_verdict"))
    accuracy = measurement.accuracy
    metric = accuracy.metrics[0] if accuracy.metrics else None
    is_baseline = step.role == "baseline"
    interval = (
        None if is_baseline else retention_interval(accuracy_on(baseline, measurement.target), accuracy)
    )
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
        # Retention relative to a useless baseline is meaningless.
        values |= dict.fromkeys(_RETENTION)
    return values


def finite(value: Any) -> Any:
    """Return the value, or None if it is a NaN or infinity, which JSON does not support."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
