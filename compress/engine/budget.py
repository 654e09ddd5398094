"""Judge a row of the report against the budget."""

from __future__ import annotations

from compress.profile.schema import BudgetSpec
from compress.records import Limit, StepRecord

_AT_LEAST = ("retention", "score", "speedup")


def judge(record: StepRecord, budget: BudgetSpec) -> tuple[Limit, ...]:
    """Each limit of the budget against a measured row, on the first target and its first batch size, unrounded."""
    limits = []
    values = measured_values(record)
    for name, value in values.items():
        limit = getattr(budget, name)
        if limit is None:
            continue
        held = value >= limit if name in _AT_LEAST else value <= limit
        limits.append(Limit(step=record.step, name=name, limit=limit, value=value, held=held))
    return tuple(limits)


def measured_values(record: StepRecord) -> dict[str, float]:
    """What a row holds of the quantities that a budget can limit."""
    first = record.measurements[0]
    latency = first.latency[0]
    assert record.size is not None
    return {
        "retention": 1.0 if first.accuracy.retention is None else first.accuracy.retention,
        "score": first.accuracy.metrics[0].value,
        "speedup": latency.speedup,
        "latency_p50_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "size_mb": record.size.model_mb,
        "peak_memory_mb": first.memory.peak_mb,
    }
