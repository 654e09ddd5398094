"""Comparison of the rows of the report with the budget."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.records import Limit, RunStatus, StepRecord
from compress.core.task_kind import Quantity
from compress.measuring.chance import no_better_than_chance
from compress.profile.schema import Profile
from compress.profile.specs.budget import BudgetSpec
from compress.tasks.table import task_kind

_MINIMUMS = ("retention", "score", "speedup")
_TIMING_LIMITS = ("speedup", "latency_p50_ms", "latency_p95_ms")
DISTURBED = "other processes disturbed the timing"
BASELINE_AT_CHANCE = "the baseline is no better than chance"


def judge_row(record: StepRecord, profile: Profile, baseline: StepRecord) -> tuple[Limit, ...]:
    """Judge a measured row by each limit of a profile's budget, in the way its task requires."""
    kind = task_kind(profile.task)
    return judge(record, profile.budget, baseline, all_timings=kind.judges_all, quantities=kind.quantities)


def judge(
    record: StepRecord,
    budget: BudgetSpec,
    baseline: StepRecord | None = None,
    *,
    all_timings: bool = False,
    quantities: Sequence[Quantity] = (),
) -> tuple[Limit, ...]:
    """Judge a measured row by each limit of the budget, on the first target and its first batch size, unrounded.

    Limits on disturbed timings are not judged. If the baseline is no better than chance, no limit counts as held, but
    limits can still be missed.

    Args:
        record: the row.
        budget: the limits.
        baseline: the row of the baseline.
        all_timings: judge the worst of all timings on the target instead of the first only.
        quantities: performance measures specific to the task.
    """
    metric = record.measurements[0].accuracy.metrics[0]
    minimums = {name for name in _MINIMUMS if name != "score" or not metric.smaller_is_better}
    at_chance = no_better_than_chance(baseline) is not None
    limits = []
    selection = slice(None if all_timings else 1)
    timings = record.measurements[0].latency[selection]
    disturbed = dict.fromkeys(_TIMING_LIMITS, any(timing.disturbed for timing in timings))
    values = measured_values(record, quantities, at_chance=at_chance)
    for quantity in quantities:
        matching = quantity.matching(record.measurements[0].latency)[selection]
        worst = max if quantity.smaller_is_better else min
        values[quantity.name] = worst(map(quantity.value_of, matching), default=None)
        disturbed[quantity.name] = any(timing.disturbed for timing in matching)
        minimums |= set() if quantity.smaller_is_better else {quantity.name}
    values |= {
        "speedup": min(timing.speedup for timing in timings),
        "latency_p50_ms": max(timing.p50_ms for timing in timings),
        "latency_p95_ms": max(timing.p95_ms for timing in timings),
    }
    for name, value in values.items():
        limit = getattr(budget, name, None)
        if limit is None:
            continue
        held = None
        if value is not None:
            held = value >= limit if name in minimums else value <= limit
        reason = None
        if disturbed.get(name):
            held, reason = None, DISTURBED
        elif at_chance and held is not False:
            held, reason = None, BASELINE_AT_CHANCE
        limits.append(Limit(step=record.step, name=name, limit=limit, value=value, held=held, reason=reason))
    return tuple(limits)


def run_status(limits: Sequence[Limit]) -> RunStatus:
    """Return the status of a complete run."""
    verdicts = {limit.held for limit in limits}
    return "budget_missed" if False in verdicts else "not_judged" if None in verdicts else "ok"


def measured_values(
    record: StepRecord, quantities: Sequence[Quantity] = (), *, at_chance: bool = False
) -> dict[str, float | None]:
    """Return the values of a row that a budget can limit, including the `quantities` of its task; retention is None for
    a `at_chance` baseline."""
    first = record.measurements[0]
    latency = first.latency[0]
    assert record.size is not None
    return {
        "retention": None if at_chance else first.accuracy.retention,
        "score": first.accuracy.metrics[0].value,
        "speedup": latency.speedup,
        "latency_p50_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "size_mb": record.size.model_mb,
        "peak_memory_mb": first.memory.peak_mb,
        **{quantity.name: quantity.first_value(first.latency) for quantity in quantities},
    }


def shows_disturbed(record: StepRecord, quantities: Sequence[Quantity] = ()) -> bool:
    """Whether a timing was disturbed that `measured_values` holds a number of."""
    latency = record.measurements[0].latency
    displayed = (latency[:1], *(quantity.matching(latency)[:1] for quantity in quantities))
    return any(timing.disturbed for timings in displayed for timing in timings)
