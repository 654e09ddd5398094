"""A run as a pandas data frame with one row per step, and as JSON for scripts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pandas as pd

from compress.core.records import COMPLETE, Latency, RunRecord, StepRecord, TargetMeasurement
from compress.measuring.chance import no_better_than_chance
from compress.reporting.data.derived_columns import derived_columns
from compress.reporting.data.paired import hits_of, packed
from compress.reporting.data.row import (
    baseline_of,
    disturbed_of,
    examples_of,
    first_target,
    measured_on,
    plain,
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
            values | _flat(derived) | _further(run, step)
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
    useless = no_better_than_chance(baseline, run.labels)
    return {
        "status": run.status if run.status in COMPLETE else "failed",
        "run": run.run,
        "bundle": run.bundle,
        "reason": failure_reason(run),
        "profile": run.profile,
        "task": run.task,
        "metric": run.metric,
        "seed": run.seed,
        "splits": dict(sorted(run.splits.items())),
        "targets": list(run.targets),
        "notes": [*([] if useless is None else [f"{useless}. No retention is given."]), *run.notes],
        "baseline_fault": useless,
        "budget": [limit.model_dump(mode="json") for limit in run.limits],
        "rows": [
            {
                **values,
                **derived,
                "status": "failed" if step.status == "failed" else "ok",
                "key": step.key,
                "model_digest": step.model_digest,
                "targets": [_target_values(run, step, baseline, found) for found in step.measurements],
            }
            for (step, values), derived in zip(
                rows_of(run, first_target(run)), derived_columns(run), strict=True
            )
        ],
    }


def contract_text(run: RunRecord) -> str:
    """Return the contract as JSON text, the exact content of `report.json`."""
    return json.dumps(contract(run), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Join lists of step names into a single cell."""
    return {key: ", ".join(value) if isinstance(value, list) else value for key, value in values.items()}


def _further(run: RunRecord, step: StepRecord) -> dict[str, Any]:
    baseline, values = baseline_of(run), dict[str, Any]()
    for number, target in enumerate(run.targets):
        found = measured_on(step, target)
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
    return {name: plain(value) for name, value in values.items()}


def _quantities(run: RunRecord, latency: Latency) -> dict[str, Any]:
    return {each.name: each.of(latency) for each in quantities_of(run.task) if each.among([latency])}


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


def test_split(run: RunRecord, found: TargetMeasurement) -> str:
    """Return a digest that identifies the test split.

    It covers the labels by name, in order; if the model was not scored against labels, the examples.
    """
    if found.accuracy.against != "labels" and found.accuracy.examples is not None:
        return found.accuracy.examples
    labels = run.labels
    named = [labels[index] if 0 <= index < len(labels) else index for index in found.accuracy.truth]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _target_values(
    run: RunRecord, step: StepRecord, baseline: StepRecord | None, found: TargetMeasurement
) -> dict[str, Any]:
    hits = hits_of(found.accuracy)
    values = {
        "target": found.target,
        "fingerprint": found.fingerprint,
        "machine": found.machine,
        "protocol": found.protocol,
        "split": found.accuracy.split,
        "examples": examples_of(found.accuracy),
        "against": found.accuracy.against,
        "test_split": test_split(run, found),
        "test_examples": found.accuracy.examples,
        "hits": None if hits is None else packed(hits),
        **score_values(step, baseline, found),
        "unknown_token_share": found.accuracy.unknown_token_share,
        "peak_memory_mb": found.memory.peak_mb,
        "absolute_peak_memory_mb": found.memory.absolute_peak_mb,
        "before_load_memory_mb": found.memory.before_load_mb,
        "memory_limit_mb": found.memory.limit_mb,
        "gpu_peak_memory_mb": found.memory.gpu_peak_mb,
        "memory_lengths": found.memory.lengths,
        "tokenization_ms": found.tokenization_ms,
        "load_ms": found.load_ms,
        "measure_seconds": found.seconds,
    }
    metrics = [
        # `smaller_is_better` is written only where it is true.
        metric.model_dump(exclude=None if metric.smaller_is_better else {"smaller_is_better"})
        for metric in found.accuracy.metrics
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
        for latency in found.latency
    ]
    return {
        **{name: plain(value) for name, value in values.items()},
        "metrics": [{name: plain(value) for name, value in metric.items()} for metric in metrics],
        "latency": [{name: plain(value) for name, value in timing.items()} for timing in timings],
    }
