"""A run as a pandas data frame with one row per step, and as JSON for scripts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pandas as pd

from compress.core.records import COMPLETE_STATUSES, Latency, RunRecord, StepRecord, TargetMeasurement
from compress.measuring.chance import no_better_than_chance
from compress.reporting.data.derived_columns import derived_columns
from compress.reporting.data.paired import encode_hits, hits_of
from compress.reporting.data.row import (
    baseline_of,
    disturbed_of,
    examples_of,
    finite,
    first_target,
    measurement_on,
    rows_of,
    score_values,
)
from compress.reporting.sections.headline import failure_reason
from compress.tasks.table import quantities_of

_COUNTS = ("parameters", "macs", "answers_fixed", "answers_broken", "answers_otherwise_wrong")


def rows(run: RunRecord) -> pd.DataFrame:
    """Return one row per step, the baseline first and the deployed step last.

    The columns are those of the contract, then intervals and verdicts, then those of further batch sizes, lengths and
    targets, with the setting in brackets: `latency_p50_ms[phone b8]`, `speedup[phone b8 fixed:128]`, `score[phone]`.
    """
    frame = pd.DataFrame(
        [
            values | _join_lists(derived) | _further_columns(run, step)
            for (step, values), derived in zip(
                rows_of(run, first_target(run)), derived_columns(run), strict=True
            )
        ]
    )
    return frame.astype({name: "Int64" for name in _COUNTS if name in frame})


def contract(run: RunRecord) -> dict[str, Any]:
    """Return what `compress report --json` prints: plain JSON values, deterministic for the same records.

    `status` is `ok`, `budget_missed`, `not_judged` or `failed`; interrupted and unfinished runs count as failed, and
    `reason` says so. Each row contains the contract's keys, its status and, under `targets`, every target and batch
    size.
    """
    baseline = baseline_of(run)
    baseline_fault = no_better_than_chance(baseline, run.labels)
    return {
        "status": run.status if run.status in COMPLETE_STATUSES else "failed",
        "run": run.run,
        "bundle": run.bundle,
        "reason": failure_reason(run),
        "profile": run.profile,
        "task": run.task,
        "metric": run.metric,
        "seed": run.seed,
        "splits": dict(sorted(run.splits.items())),
        "targets": list(run.targets),
        "notes": [
            *([] if baseline_fault is None else [f"{baseline_fault}. No retention is given."]),
            *run.notes,
        ],
        "baseline_fault": baseline_fault,
        "budget": [limit.model_dump(mode="json") for limit in run.limits],
        "rows": [
            {
                **values,
                **derived,
                "status": "failed" if step.status == "failed" else "ok",
                "key": step.key,
                "model_digest": step.model_digest,
                "targets": [
                    _target_values(run, step, baseline, measurement) for measurement in step.measurements
                ],
            }
            for (step, values), derived in zip(
                rows_of(run, first_target(run)), derived_columns(run), strict=True
            )
        ],
    }


def contract_text(run: RunRecord) -> str:
    """Return the contract as JSON text, the exact content of `report.json`."""
    return json.dumps(contract(run), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _join_lists(values: dict[str, Any]) -> dict[str, Any]:
    """Join lists of step names into a single cell."""
    return {key: ", ".join(value) if isinstance(value, list) else value for key, value in values.items()}


def _further_columns(run: RunRecord, step: StepRecord) -> dict[str, Any]:
    baseline, values = baseline_of(run), dict[str, Any]()
    for number, target in enumerate(run.targets):
        found = measurement_on(step, target)
        if found is None:
            continue
        if number > 0:
            scores = score_values(step, baseline, found)
            values |= {f"{name}[{target}]": scores[name] for name in ("score", "retention", "score_verdict")}
            values[f"peak_memory_mb[{target}]"] = found.memory.peak_mb
        flat = set[str]()
        for index, latency in enumerate(found.latency):
            place = f"{target} b{latency.batch_size}"
            place += "" if latency.lengths == "real" else f" {latency.lengths}"
            own = _quantities(run, latency)
            shown = {name: value for name, value in own.items() if number > 0 or name in flat}
            shown |= _latency_values(latency) if number > 0 or index > 0 else {}
            values |= {f"{name}[{place}]": value for name, value in shown.items()}
            flat |= own.keys()
    return {name: finite(value) for name, value in values.items()}


def _quantities(run: RunRecord, latency: Latency) -> dict[str, Any]:
    return {
        quantity.name: quantity.value_of(latency)
        for quantity in quantities_of(run.task)
        if quantity.matching([latency])
    }


def _latency_values(latency: Latency) -> dict[str, Any]:
    return {
        "latency_p50_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "speedup": latency.speedup,
        "speedup_low": latency.speedup_low,
        "speedup_high": latency.speedup_high,
        "latency_verdict": latency.verdict,
        "throughput": latency.throughput,
        "disturbed": disturbed_of(latency),
    }


def test_split(run: RunRecord, measurement: TargetMeasurement) -> str:
    """Return a digest that identifies the test split.

    It covers the labels by name, in order; if the model was not scored against labels, the examples.
    """
    if measurement.accuracy.against != "labels" and measurement.accuracy.examples is not None:
        return measurement.accuracy.examples
    labels = run.labels
    label_names = [
        labels[index] if 0 <= index < len(labels) else index for index in measurement.accuracy.truth
    ]
    return hashlib.sha256(json.dumps(label_names).encode()).hexdigest()


def _target_values(
    run: RunRecord, step: StepRecord, baseline: StepRecord | None, measurement: TargetMeasurement
) -> dict[str, Any]:
    hits = hits_of(measurement.accuracy)
    values = {
        "target": measurement.target,
        "fingerprint": measurement.fingerprint,
        "machine": measurement.machine,
        "protocol": measurement.protocol,
        "split": measurement.accuracy.split,
        "examples": examples_of(measurement.accuracy),
        "against": measurement.accuracy.against,
        "test_split": test_split(run, measurement),
        "test_examples": measurement.accuracy.examples,
        "hits": None if hits is None else encode_hits(hits),
        **score_values(step, baseline, measurement),
        "unknown_token_share": measurement.accuracy.unknown_token_share,
        "peak_memory_mb": measurement.memory.peak_mb,
        "absolute_peak_memory_mb": measurement.memory.absolute_peak_mb,
        "before_load_memory_mb": measurement.memory.before_load_mb,
        "memory_limit_mb": measurement.memory.limit_mb,
        "gpu_peak_memory_mb": measurement.memory.gpu_peak_mb,
        "memory_lengths": measurement.memory.lengths,
        "tokenization_ms": measurement.tokenization_ms,
        "load_ms": measurement.load_ms,
        "measure_seconds": measurement.seconds,
    }
    metrics = [
        # `smaller_is_better` is written only where it is true.
        metric.model_dump(exclude=None if metric.smaller_is_better else {"smaller_is_better"})
        for metric in measurement.accuracy.metrics
    ]
    timings = [
        {
            "batch_size": latency.batch_size,
            "lengths": latency.lengths,
            "mean_tokens": latency.mean_tokens,
            "rounds": latency.rounds,
            **_latency_values(latency),
            **_quantities(run, latency),
            "latency_p50_low_ms": latency.p50_low,
            "latency_p50_high_ms": latency.p50_high,
            "baseline_p50_ms": latency.baseline_p50_ms,
            "disturbance": None if latency.disturbance is None else latency.disturbance.model_dump(),
        }
        for latency in measurement.latency
    ]
    return {
        **{name: finite(value) for name, value in values.items()},
        "metrics": [{name: finite(value) for name, value in metric.items()} for metric in metrics],
        "latency": [{name: finite(value) for name, value in timing.items()} for timing in timings],
    }
