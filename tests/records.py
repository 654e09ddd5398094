"""Records of runs that never happened, shaped like real ones: for tests of whatever reads records."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

from compress.core.records import (
    Accuracy,
    Curve,
    CurvePoint,
    Disturbance,
    Latency,
    Limit,
    Memory,
    Metric,
    RunRecord,
    Size,
    StepRecord,
    TargetMeasurement,
)
from compress.reporting.data.paired import PairedCounts, paired_counts

LABELS = ("business", "entertainment", "politics", "sport", "tech")
TARGET = "cpu-onnxruntime-2t"
PROFILE = (
    "name: bert_to_tiny\ntask: text-classification\n# & <profile>\nbudget: {retention: 0.97, size_mb: 6}\n"
)


def truth_of(examples: int = 445, labels: int = len(LABELS)) -> tuple[int, ...]:
    return tuple(index % labels for index in range(examples))


def predictions_of(
    truth: Sequence[int], wrong: int, labels: int = len(LABELS), seed: int = 0
) -> tuple[int, ...]:
    """`truth` with exactly `wrong` examples taken for another class; equal seeds miss nested sets of examples."""
    order = list(range(len(truth)))
    random.Random(seed).shuffle(order)
    missed = set(order[:wrong])
    return tuple(
        (true + 1 + index % max(labels - 1, 1)) % labels if index in missed else true
        for index, true in enumerate(truth)
    )


def accuracy(
    predictions: Sequence[int], truth: Sequence[int], baseline: Accuracy | None, **changes: Any
) -> Accuracy:
    value = sum(a == b for a, b in zip(predictions, truth, strict=True)) / len(truth)
    margin = 1.96 * (value * (1 - value) / len(truth)) ** 0.5
    made = Accuracy(
        split="test",
        batch_size=1,
        metrics=(
            Metric(
                name="accuracy",
                value=value,
                low=max(0, value - margin),
                high=min(1, value + margin),
                n=len(truth),
            ),
        ),
        retention=None,
        p_value=None,
        verdict=None,
        predictions=tuple(predictions),
        truth=tuple(truth),
    )
    if baseline is not None:
        test = (paired_counts(baseline, made) or PairedCounts(1, 0, 0)).test
        made = made.model_copy(
            update={
                "retention": value / baseline.metrics[0].value,
                "p_value": test.p_value,
                "verdict": test.verdict,
            }
        )
    return made.model_copy(update=changes)


def latency(
    p50_ms: float, baseline_ms: float, batch_size: int = 1, lengths: str = "real", **changes: Any
) -> Latency:
    chance = random.Random(f"{p50_ms} {batch_size} {lengths}")
    samples = tuple(p50_ms * batch_size**0.8 * chance.uniform(0.93, 1.15) for _ in range(40))
    against = tuple(baseline_ms * batch_size**0.8 * chance.uniform(0.93, 1.15) for _ in range(40))
    p50, base = statistics.median(samples), statistics.median(against)
    ratio = base / p50
    verdict = "no difference" if 0.97 < ratio < 1.03 else "faster" if ratio > 1 else "slower"
    return Latency(
        batch_size=batch_size,
        lengths=lengths,
        mean_tokens=118.4 if lengths == "real" else float(lengths.split(":")[1]),
        rounds=40,
        p50_ms=p50,
        p50_low=p50 * 0.985,
        p50_high=p50 * 1.02,
        p95_ms=sorted(samples)[37],
        baseline_p50_ms=base,
        speedup=ratio,
        speedup_low=ratio * 0.97,
        speedup_high=ratio * 1.03,
        verdict=verdict,
        throughput=1000 * batch_size / p50,
        samples_ms=samples,
        baseline_samples_ms=against,
    ).model_copy(update=changes)


def measurement(
    scores: Accuracy,
    p50_ms: float,
    baseline_ms: float,
    peak_mb: float,
    target: str = TARGET,
    timed: Sequence[tuple[int, str]] = ((1, "real"), (8, "real")),
    **changes: Any,
) -> TargetMeasurement:
    return TargetMeasurement(
        key=f"{p50_ms}",
        target=target,
        fingerprint=f"{target}-0123456789abcdef",
        protocol=1,
        accuracy=scores,
        latency=tuple(latency(p50_ms, baseline_ms, size, lengths) for size, lengths in timed),
        memory=Memory(peak_mb=peak_mb, absolute_peak_mb=peak_mb + 61.0, before_load_mb=61.0),
        tokenization_ms=0.21,
        seconds=7.5,
    ).model_copy(update=changes)


def curve(name: str, best: float, steps: int = 12) -> Curve:
    return Curve(
        name=name,
        points=tuple(
            CurvePoint(
                step=40 * n,
                epoch=0.5 * n,
                train_loss=2.2 * 0.7**n + 0.05,
                validation_score=best - 0.4 * 0.6**n,
            )
            for n in range(1, steps + 1)
        ),
        seconds=7.5 * steps,
    )


def bert_run(truth: Sequence[int] | None = None, labels: Sequence[str] = LABELS, **changes: Any) -> RunRecord:
    """A BERT of 22.7 M parameters, fine-tuned, distilled (with a control), pruned, quantized and exported."""
    truth = truth_of() if truth is None else tuple(truth)
    teacher = accuracy(predictions_of(truth, 10, len(labels)), truth, None)

    def measured(wrong: int, p50: float, peak: float, seed: int = 0) -> tuple[TargetMeasurement, ...]:
        return (
            measurement(
                accuracy(predictions_of(truth, wrong, len(labels), seed), truth, teacher), p50, 12.4, peak
            ),
        )

    steps = (
        StepRecord(
            step="baseline",
            kind="finetune",
            role="baseline",
            status="ok",
            key="k0",
            form="torch float",
            artifact="artifacts/k0",
            measured="artifacts/l0",
            facts={"parameters": 22_715_141, "device": "cpu", "parity": {"1x7": 3.1e-6, "8x128": 4.4e-6}},
            curves=(curve("finetune", 0.982),),
            size=Size(model_mb=90.95, tokenizer_mb=0.71, total_mb=91.9),
            parameters=22_715_141,
            macs=1_361_000_000,
            seconds=182.4,
            lower_seconds=6.1,
            measure_seconds=21.0,
            measurements=(measurement(teacher, 12.4, 12.4, 118.0),),
        ),
        StepRecord(
            step="distill",
            kind="distill",
            role="step",
            status="ok",
            key="k1",
            form="torch float",
            artifact="artifacts/k1",
            measured="artifacts/l1",
            facts={
                "parameters": 1_552_389,
                "vocabulary": {"kept": 8012, "dropped": 22510},
                "losses": ["logits", "labels"],
            },
            curves=(curve("distill", 0.975),),
            size=Size(model_mb=6.24, tokenizer_mb=0.19, total_mb=6.6),
            parameters=1_552_389,
            macs=41_000_000,
            seconds=96.0,
            lower_seconds=2.2,
            measure_seconds=14.0,
            measurements=measured(14, 0.82, 14.1),
        ),
        StepRecord(
            step="distill (control)",
            kind="distill",
            role="control",
            status="ok",
            key="k1c",
            form="torch float",
            artifact="artifacts/k1c",
            curves=(curve("control", 0.931),),
            size=Size(model_mb=6.24, tokenizer_mb=0.19, total_mb=6.6),
            parameters=1_552_389,
            macs=41_000_000,
            seconds=71.0,
            measure_seconds=14.0,
            measurements=measured(39, 0.83, 14.1, seed=1),
        ),
        StepRecord(
            step="prune",
            kind="prune",
            role="step",
            status="ok",
            key="k2",
            form="torch float pruned",
            artifact="artifacts/k2",
            measured="artifacts/l2",
            facts={"parameters": 1_486_597, "removed": {"feed_forward": 0.25}},
            curves=(curve("recover", 0.973, 5),),
            size=Size(model_mb=5.98, tokenizer_mb=0.19, total_mb=6.3),
            parameters=1_486_597,
            macs=35_000_000,
            seconds=33.0,
            lower_seconds=2.0,
            measure_seconds=13.0,
            measurements=measured(15, 0.73, 13.5),
        ),
        StepRecord(
            step="quantize",
            kind="quantize",
            role="step",
            status="ok",
            key="k3",
            form="onnx operator pruned",
            artifact="artifacts/k3",
            measured="artifacts/k3",
            facts={"parameters": 1_486_597, "scheme": "dynamic", "integer_operators": 13},
            size=Size(model_mb=1.61, tokenizer_mb=0.19, total_mb=1.9),
            parameters=1_486_597,
            macs=35_000_000,
            seconds=4.2,
            measure_seconds=12.0,
            measurements=measured(16, 0.49, 6.2),
        ),
        StepRecord(
            step="export",
            kind="export",
            role="step",
            status="ok",
            key="k4",
            form="onnx operator pruned bundle",
            artifact="artifacts/k4",
            measured="artifacts/k4",
            facts={"parameters": 1_486_597, "opset": 20},
            size=Size(model_mb=1.61, tokenizer_mb=0.19, total_mb=3.7),
            parameters=1_486_597,
            macs=35_000_000,
            seconds=2.8,
            measure_seconds=12.0,
            measurements=measured(16, 0.49, 6.2),
        ),
    )
    return RunRecord(
        run="bert_to_tiny-0a1b2c3d4e5f",
        profile="bert_to_tiny",
        task="text-classification",
        metric="accuracy",
        status="ok",
        started="2026-01-02T03:04:05Z",
        seconds=487.0,
        labels=tuple(labels),
        splits={"train": 1558, "validation": 222, "test": len(truth)},
        seed=0,
        profile_text=PROFILE,
        environment={
            "machine": {"cpu": "A processor", "cores": 2},
            "versions": {"torch": "2.13.0", "onnxruntime": "1.31.0"},
        },
        targets=(TARGET,),
        steps=steps,
        limits=(
            Limit(step="export", name="retention", limit=0.97, value=429 / 435, held=True),
            Limit(step="export", name="size_mb", limit=6.0, value=1.61, held=True),
        ),
        bundle="runs/bert_to_tiny-0a1b2c3d4e5f/bundle",
    ).model_copy(update=changes)


def change_step(run: RunRecord, name: str, **changes: Any) -> RunRecord:
    """The run with fields of one step replaced."""
    steps = tuple(step.model_copy(update=changes) if step.step == name else step for step in run.steps)
    return run.model_copy(update={"steps": steps})


def disturbed_step(run: RunRecord, name: str) -> RunRecord:
    """The run with the timings of one step disturbed by other processes."""
    by = Disturbance(
        disturbed=True,
        told_by="schedstat",
        baseline_waited=0.91,
        waited=0.42,
        rounds=120,
        disturbed_rounds=118,
        pressure=0.97,
        stolen=0.0,
        switches=31.5,
        patient_s=3.2,
    )
    step = next(step for step in run.steps if step.step == name)
    measurements = tuple(
        one.model_copy(
            update={
                "latency": tuple(
                    each.model_copy(update={"disturbance": by, "verdict": None}) for each in one.latency
                )
            }
        )
        for one in step.measurements
    )
    return change_step(run, name, measurements=measurements)


def failed_run() -> RunRecord:
    """A run whose pruning broke its promise."""
    run = bert_run()
    broken = StepRecord(
        step="prune",
        kind="prune",
        role="step",
        status="failed",
        key="k2",
        form="torch float pruned",
        seconds=3.0,
        error="the model has 1,486,600 parameters, 1,486,597 were predicted",
    )
    steps = (*run.steps[:3], broken)
    return run.model_copy(
        update={"steps": steps, "status": "failed", "limits": (), "bundle": None, "error": broken.error}
    )


def missed_run() -> RunRecord:
    """A complete run that missed its budget."""
    run = bert_run()
    missed = Limit(step="export", name="size_mb", limit=1.5, value=1.61, held=False)
    return run.model_copy(update={"status": "budget_missed", "limits": (run.limits[0], missed)})


def embedding_accuracy(
    value: float, recall: float, against: str = "baseline", margin: float = 0.004, **changes: Any
) -> Accuracy:
    """Scores of a sentence encoder on 2,000 texts, or on 1,379 pairs with given scores."""
    n = 2000 if against == "baseline" else 1379
    low, high = max(-1.0, value - margin), min(1.0, value + margin)
    if value == 1:
        low = 1.0
    return Accuracy(
        split="test",
        batch_size=1,
        metrics=(
            Metric(name="spearman", value=value, low=low, high=high, n=n),
            Metric(
                name="recall_at_10", value=recall, low=recall - 0.01, high=min(1.0, recall + 0.01), n=2000
            ),
        ),
        retention=value,
        p_value=None,
        verdict=None if value == 1 else "worse" if high < 1 else "no difference",
        predictions=(),
        truth=(),
        against=against,
        retention_low=None if value == 1 else low,
        retention_high=None if value == 1 else high,
        examples="e" * 64,
    ).model_copy(update=changes)


def embedding_run(**changes: Any) -> RunRecord:
    """A sentence encoder that was distilled (in two stages, with a control) and quantized."""
    scores = {
        "baseline": embedding_accuracy(1.0, 1.0),
        "distill": embedding_accuracy(0.952, 0.643),
        "distill (control)": embedding_accuracy(0.801, 0.402),
        "prune": embedding_accuracy(0.951, 0.642),
        "quantize": embedding_accuracy(0.941, 0.621),
        "export": embedding_accuracy(0.941, 0.621),
    }
    run = bert_run()
    steps = tuple(
        step.model_copy(
            update={
                "measurements": tuple(
                    one.model_copy(update={"accuracy": scores[step.step]}) for one in step.measurements
                )
            }
        )
        for step in run.steps
    )
    return run.model_copy(
        update={
            "profile": "minilm_sentences",
            "run": "minilm_sentences-0a1b2c3d4e5f",
            "task": "sentence-embedding",
            "metric": "spearman",
            "labels": (),
            "splits": {"train": 27829, "validation": 4009, "test": 2000},
            "steps": steps,
            "limits": (Limit(step="export", name="score", limit=0.93, value=0.941, held=True),),
            **changes,
        }
    )
