"""Judge a row of the report against the budget."""

from __future__ import annotations

from collections.abc import Sequence

from compress.profile.schema import BudgetSpec
from compress.records import Limit, RunStatus, StepRecord

_AT_LEAST = ("retention", "score", "speedup")
_TIMINGS = ("speedup", "latency_p50_ms", "latency_p95_ms")
DISTURBED = "other processes disturbed the timing"


def judge(record: StepRecord, budget: BudgetSpec) -> tuple[Limit, ...]:
    """Each limit of the budget against a measured row, on the first target and its first batch size, unrounded.

    Timings that other processes disturbed beyond use are not judged.
    """
    limits = []
    disturbed = record.measurements[0].latency[0].disturbed
    for name, value in measured_values(record).items():
        limit = getattr(budget, name)
        if limit is None:
            continue
        held = value >= limit if name in _AT_LEAST else value <= limit
        made = Limit(step=record.step, name=name, limit=limit, value=value, held=held)
        if disturbed and name in _TIMINGS:
            made = made.model_copy(update={"held": None, "reason": DISTURBED})
        limits.append(made)
    return tuple(limits)


def outcome(limits: Sequence[Limit]) -> RunStatus:
    """How a complete run ended."""
    found = {limit.held for limit in limits}
    return "budget_missed" if False in found else "not_judged" if None in found else "ok"


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
