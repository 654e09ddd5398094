"""Comparison of the rows of the report with the budget."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.records import Limit, RunStatus, StepRecord
from compress.core.task_kind import Quantity
from compress.measuring.chance import no_better_than_chance
from compress.profile.schema import Profile
from compress.profile.specs.budget import BudgetSpec
from compress.tasks.table import task_kind

_AT_LEAST = ("retention", "score", "speedup")
_TIMINGS = ("speedup", "latency_p50_ms", "latency_p95_ms")
DISTURBED = "other processes disturbed the timing"
USELESS = "the baseline is no better than chance"


def judge_row(record: StepRecord, profile: Profile, baseline: StepRecord) -> tuple[Limit, ...]:
    """Judge a measured row by each limit of a profile's budget, in the way its task requires."""
    kind = task_kind(profile.task)
    return judge(record, profile.budget, baseline, every=kind.judges_all, quantities=kind.quantities)


def judge(
    record: StepRecord,
    budget: BudgetSpec,
    baseline: StepRecord | None = None,
    *,
    every: bool = False,
    quantities: Sequence[Quantity] = (),
) -> tuple[Limit, ...]:
    """Judge a measured row by each limit of the budget, on the first target and its first batch size, unrounded.

    Limits on disturbed timings are not judged. If the baseline is no better than chance, no limit counts as held, but
    limits can still be missed.

    Args:
        record: the row.
        budget: the limits.
        baseline: the row of the baseline.
        every: judge the worst of all timings on the target instead of the first only.
        quantities: performance measures specific to the task.
    """
    metric = record.measurements[0].accuracy.metrics[0]
    floors = {name for name in _AT_LEAST if name != "score" or not metric.smaller_is_better}
    useless = no_better_than_chance(baseline) is not None
    limits = []
    judged = slice(None if every else 1)
    timed = record.measurements[0].latency[judged]
    disturbed = dict.fromkeys(_TIMINGS, any(one.disturbed for one in timed))
    values = measured_values(record, quantities, useless=useless)
    for quantity in quantities:
        found = quantity.among(record.measurements[0].latency)[judged]
        worst = max if quantity.smaller_is_better else min
        values[quantity.name] = worst(map(quantity.of, found), default=None)
        disturbed[quantity.name] = any(one.disturbed for one in found)
        floors |= set() if quantity.smaller_is_better else {quantity.name}
    values |= {
        "speedup": min(one.speedup for one in timed),
        "latency_p50_ms": max(one.p50_ms for one in timed),
        "latency_p95_ms": max(one.p95_ms for one in timed),
    }
    for name, value in values.items():
        limit = getattr(budget, name, None)
        if limit is None:
            continue
        held = None
        if value is not None:
            held = value >= limit if name in floors else value <= limit
        reason = None
        if disturbed.get(name):
            held, reason = None, DISTURBED
        elif useless and held is not False:
            held, reason = None, USELESS
        limits.append(Limit(step=record.step, name=name, limit=limit, value=value, held=held, reason=reason))
    return tuple(limits)


def outcome(limits: Sequence[Limit]) -> RunStatus:
    """Return the status of a complete run."""
    found = {limit.held for limit in limits}
    return "budget_missed" if False in found else "not_judged" if None in found else "ok"


def measured_values(
    record: StepRecord, quantities: Sequence[Quantity] = (), *, useless: bool = False
) -> dict[str, float | None]:
    """Return the values of a row that a budget can limit, including the `quantities` of its task; retention is None for
    a `useless` baseline."""
    first = record.measurements[0]
    latency = first.latency[0]
    assert record.size is not None
    return {
        "retention": None if useless else first.accuracy.retention,
        "score": first.accuracy.metrics[0].value,
        "speedup": latency.speedup,
        "latency_p50_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "size_mb": record.size.model_mb,
        "peak_memory_mb": first.memory.peak_mb,
        **{quantity.name: quantity.first(first.latency) for quantity in quantities},
    }


def shows_disturbed(record: StepRecord, quantities: Sequence[Quantity] = ()) -> bool:
    """Whether a timing was disturbed that `measured_values` holds a number of."""
    latency = record.measurements[0].latency
    shown = (latency[:1], *(quantity.among(latency)[:1] for quantity in quantities))
    return any(one.disturbed for timings in shown for one in timings)
