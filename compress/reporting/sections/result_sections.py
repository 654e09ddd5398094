"""Sections with the results: the table of steps, its plots, and the cost and gain of each pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.core.task_kind import Quantity
from compress.core.units import format_count, format_seconds
from compress.reporting.data.paired import paired_test
from compress.reporting.data.row import (
    accuracy_on,
    baseline_of,
    deployed_of,
    first_target,
    measured_on,
    metric_on,
    ordered,
    partner_of,
    row_of,
    rows_of,
    secondary_metrics,
    speed_of,
    speed_values,
    without_disturbed,
)
from compress.reporting.render.document import (
    Cell,
    Change,
    Figure,
    Point,
    Row,
    Scatter,
    Section,
    Table,
    Waterfall,
    row,
    section_of,
)
from compress.reporting.render.numbers import (
    MISSING,
    known,
    p_value,
    percent,
    percent_range,
    signed,
    significant,
    span,
    times,
    times_range,
)
from compress.reporting.render.scores import Reading, rate_words, reading
from compress.reporting.sections import attribution
from compress.tasks.table import quantities_of


def steps(run: RunRecord) -> Section:
    """Build the section with the main table: one row per step, the baseline first, the deployed step last."""
    deployed = deployed_of(run)
    own = [quantity for quantity in quantities_of(run.task) if quantity.column]
    beside = secondary_metrics(run)
    table = Table(
        f"Every step on {first_target(run) or 'the first target'}: medians, with 95 % intervals below them; speed-up: "
        "the baseline's median divided by the step's, from the same rounds",
        (
            "Step",
            reading(run.metric).words,
            "retention",
            *(metric.words for metric in beside),
            "p50 ms",
            "p95 ms",
            "baseline p50 ms",
            "speed-up",
            rate_words(run.task),
            *(f"{quantity.words}, {quantity.unit}" for quantity in own),
            "peak MB",
            "size MB",
            "parameters",
            "time taken",
        ),
        tuple(
            _step_row(
                values,
                step,
                step is deployed,
                reading(run.metric),
                [_score_cell(run, step, metric.name) for metric in beside],
                [_quantity_cell(run, step, quantity) for quantity in own],
            )
            for step, values in rows_of(run, first_target(run))
        ),
    )
    return section_of("steps", "Steps", table)


def plane(run: RunRecord) -> Section:
    """Build the section with plots of the score against latency and against size."""
    figures, read, speed, target = [], reading(run.metric), speed_of(run.task), first_target(run)
    way = "down" if read.smaller_is_better else "up"
    rows = rows_of(run, target)
    sizes = [(values["size_mb"],) * 3 if known(values["size_mb"]) else None for _, values in rows]
    for places, label, words, side in (
        (
            [speed_values(run, step, target) for step, _ in rows],
            f"{speed.words}, {speed.unit}",
            speed.words,
            "left" if speed.smaller_is_better else "right",
        ),
        (sizes, "size on disk, MB", "size", "left"),
    ):
        found = [
            Point(
                values["step"],
                values["role"],
                place,
                (
                    read.factor * values["score"],
                    read.factor * _or(values["score_low"], values["score"]),
                    read.factor * _or(values["score_high"], values["score"]),
                ),
            )
            for (_, values), place in zip(rows, places, strict=True)
            if place is not None and place[0] > 0 and known(values["score"])
        ]
        if len(found) < 2:
            continue
        said = "; ".join(
            f"{point.label}: {read.value(point.y[0] / read.factor)} at {significant(point.x[0])}"
            for point in found
        )
        figures.append(
            Figure(
                Scatter(label, read.axis, tuple(found)),
                f"{read.title} against {words}; better is {way} and to the {side}. Bars are 95 % intervals.",
                f"{read.words} against {label}. {said}.",
            )
        )
    return Section("plane", f"{read.title} against latency and size", figures=tuple(figures))


def passes(run: RunRecord) -> Section:
    """Build the section that compares each pass with the step before it, and each control with its own step."""
    chain = [step for step in ordered(run) if step.role in ("baseline", "step") and step.status != "failed"]
    if len(chain) < 2:
        return Section("passes", "What each pass cost and gained")
    table = Table(
        "Each pass compared with its input model",
        ("Pass", reading(run.metric).change_axis, "latency", "size", "memory", "parameters", "work"),
        tuple(_pass_row(run, before, after) for before, after in pairwise(chain)),
    )
    controls = [step for step in run.steps if step.role in ("control", "variant") and step.status != "failed"]
    beside = Table(
        "Controls and variants compared with their step",
        ("Row", "compared with", reading(run.metric).change_axis, "verdict"),
        tuple(found for step in controls if (found := _control_row(run, step)) is not None),
        frozenset({1, 3}),
    )
    made = section_of("passes", "What each pass cost and gained", table, beside, attribution.table(run))
    return replace(made, figures=_waterfalls(run, chain))


def _score_cell(run: RunRecord, step: StepRecord, metric: str) -> Cell:
    """Return a secondary score of a step, with its interval."""
    found = metric_on(step, first_target(run), metric)
    if found is None:
        return Cell(MISSING)
    return Cell(reading(metric).value(found.value), reading(metric).range(found.low, found.high))


def _quantity_cell(run: RunRecord, step: StepRecord, quantity: Quantity) -> Cell:
    """What a task is measured by, where a step was first timed for it."""
    found = measured_on(step, first_target(run))
    timed = next(iter(quantity.among(found.latency)), None) if found else None
    if timed is None:
        return Cell(MISSING)
    value = significant(quantity.of(timed))
    return Cell(value, "disturbed", "bad") if timed.disturbed else Cell(value)


def _step_row(
    values: dict[str, Any],
    step: StepRecord,
    is_deployed: bool,
    read: Reading,
    beside: Sequence[Cell],
    own: Sequence[Cell],
) -> Row:
    kind = "failed" if step.status == "failed" else "deployed" if is_deployed else step.role
    note = {"failed": "failed", "deployed": "deployed", "control": "control", "variant": "variant"}.get(
        kind, ""
    )
    if step.role == "baseline":
        note = "FP32 baseline"
    a_a = "A/A run" if step.role == "baseline" and known(values["speedup"]) else ""
    disturbed = "disturbed" if values["disturbed"] else ""
    no_difference = "no difference"
    speed = times_range(values["speedup_low"], values["speedup_high"])
    return row(
        Cell(step.step, note),
        Cell(read.value(values["score"]), read.range(values["score_low"], values["score_high"])),
        Cell(
            percent(values["retention"]),
            no_difference
            if values["score_verdict"] == no_difference
            else percent_range(values["retention_low"], values["retention_high"]),
        ),
        *beside,
        Cell(
            significant(values["latency_p50_ms"]),
            disturbed or span(values["latency_p50_low_ms"], values["latency_p50_high_ms"], significant),
            tone="bad" if disturbed else "",
        ),
        significant(values["latency_p95_ms"]),
        significant(values["baseline_p50_ms"]),
        Cell(
            MISSING if disturbed else times(values["speedup"]),
            disturbed or a_a or (no_difference if values["latency_verdict"] == no_difference else speed),
        ),
        significant(values["throughput"]),
        *own,
        significant(values["peak_memory_mb"]),
        significant(values["size_mb"]),
        Cell(
            MISSING if step.parameters is None else format_count(step.parameters),
            "" if step.macs is None else f"{format_count(step.macs)} MACs",
        ),
        format_seconds(step.seconds),
        kind=kind,
    )


def _pass_row(run: RunRecord, before: StepRecord, after: StepRecord) -> Row:
    baseline, target = baseline_of(run), first_target(run)
    old, new = (row_of(step, baseline, target) for step in (before, after))
    found = paired_test(accuracy_on(before, target), accuracy_on(after, target))
    change = new["score"] - old["score"] if known(new["score"]) and known(old["score"]) else None
    words = "" if found is None else p_value(found.p_value) if found.differ else found.verdict
    latency = _shrink(old["latency_p50_ms"], new["latency_p50_ms"], " ms")
    if old["disturbed"] or new["disturbed"]:
        latency = Cell(MISSING, "disturbed")
    elif latency.detail and not _speed_differs(old, new):
        latency = Cell("no difference", latency.detail)
    return row(
        Cell(after.step, f"after {before.step}"),
        Cell(reading(run.metric).change(change), words),
        latency,
        _shrink(old["size_mb"], new["size_mb"], " MB"),
        _shrink(old["peak_memory_mb"], new["peak_memory_mb"], " MB"),
        _shrink(before.parameters, after.parameters, ""),
        Cell(format_seconds(after.seconds), f"measured in {format_seconds(after.measure_seconds)}"),
    )


def _speed_differs(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the intervals of the speed-ups over the baseline, which machine drift does not affect, are disjoint."""
    ends = [values[key] for values in (old, new) for key in ("speedup_low", "speedup_high")]
    if not all(known(end) for end in ends):
        return False
    return bool(ends[1] < ends[2] or ends[3] < ends[0])


def _control_row(run: RunRecord, control: StepRecord) -> Row | None:
    partner = partner_of(run, control)
    if partner is None:
        return None
    target = first_target(run)
    first, second = accuracy_on(partner, target), accuracy_on(control, target)
    found = paired_test(first, second)
    if first is None or second is None or found is None or not (first.metrics and second.metrics):
        return None
    change = second.metrics[0].value - first.metrics[0].value
    return row(
        Cell(control.step, control.role),
        partner.step,
        reading(run.metric).change(change),
        Cell(found.verdict, p_value(found.p_value)),
    )


def _shrink(before: float | None, after: float | None, unit: str) -> Cell:
    if not (known(before) and known(after)) or after <= 0 or before <= 0:
        return Cell(MISSING)
    said = [format_count(value) if not unit else significant(value) for value in (before, after)]
    return Cell(_ratio_words(before, after), f"{said[0]} → {said[1]}{unit}")


def _waterfalls(run: RunRecord, chain: Sequence[StepRecord]) -> tuple[Figure, ...]:
    """Return the changes of score and size from pass to pass, and of the latency on each target."""
    read, first = reading(run.metric), first_target(run)
    lost = "points" if read.percent else "change"
    grey = "grey where the difference is not significant"
    score = _score_waterfall(
        run, chain, f"{read.title}: {lost} lost or gained by each pass, the baseline at 0; {grey}."
    )
    given = "from each pass's input model to its output"
    latencies = [
        _ratio_waterfall(
            run,
            chain,
            target,
            "latency_p50_ms",
            "median latency, ms",
            f"Median latency{f' on {target}' if len(run.targets) > 1 else ''}: {given}; {grey}.",
        )
        for target in run.targets
    ]
    size = _ratio_waterfall(run, chain, first, "size_mb", "size on disk, MB", f"Size on disk: {given}.")
    return tuple(figure for figure in (score, *latencies, size) if figure is not None)


def _score_waterfall(run: RunRecord, chain: Sequence[StepRecord], caption: str) -> Figure | None:
    """Return the cumulative changes of the score on the first target."""
    read, target = reading(run.metric), first_target(run)
    found = _known(run, chain, target, "score")
    changes = []
    for (before, old), (after, new) in pairwise(found):
        pair = paired_test(accuracy_on(before, target), accuracy_on(after, target))
        start, end = (read.factor * (values["score"] - found[0][1]["score"]) for values in (old, new))
        differ = pair is not None and pair.differ
        changes.append(Change(after.step, start, end, signed(end - start, _decimals(read)), differ))
    label = f"{read.change_axis}{'' if read.percent else ','} from the baseline"
    end_words = signed(changes[-1].after, _decimals(read)) if changes else ""
    return _waterfall(
        label, changes, caption, end_words, ratio=False, larger_is_better=not read.smaller_is_better
    )


def _decimals(read: Reading) -> int:
    return 1 if read.percent else 3


def _ratio_waterfall(
    run: RunRecord, chain: Sequence[StepRecord], target: str | None, key: str, label: str, caption: str
) -> Figure | None:
    """Return the factors by which a quantity on a target shrank."""
    changes = [
        Change(
            after.step,
            old[key],
            new[key],
            _ratio_words(old[key], new[key]),
            _speed_differs(old, new) if key == "latency_p50_ms" else old[key] != new[key],
        )
        for (_, old), (after, new) in pairwise(_known(run, chain, target, key))
    ]
    return _waterfall(label, changes, caption, significant(changes[-1].after) if changes else "", ratio=True)


def _known(
    run: RunRecord, chain: Sequence[StepRecord], target: str | None, key: str
) -> list[tuple[StepRecord, dict[str, Any]]]:
    """Return the steps for which a quantity was measured on a target, with their rows."""
    baseline = baseline_of(run)
    rows = [(step, without_disturbed(row_of(step, baseline, target))) for step in chain]
    return [
        (step, values) for step, values in rows if known(values[key]) and (key == "score" or values[key] > 0)
    ]


def _waterfall(
    label: str,
    changes: Sequence[Change],
    caption: str,
    end: str,
    *,
    ratio: bool,
    larger_is_better: bool = False,
) -> Figure | None:
    if not changes:
        return None
    said = "; ".join(
        f"{change.label}: {change.text}" + ("" if change.differs else " (no difference)")
        for change in changes
    )
    shown = Waterfall(label, tuple(changes), larger_is_better=larger_is_better, ratio=ratio)
    return Figure(shown, caption, f"{label}. {said}. Ends at {end}.")


def _ratio_words(before: float, after: float) -> str:
    """Format a reduction as a factor: `÷15.2`; `×1.08` for an increase, `same` for no change."""
    factor = before / after
    if significant(factor) == significant(1.0):
        return "same"
    return f"÷{significant(factor)}" if factor > 1 else f"×{significant(1 / factor)}"


def _or(value: float | None, otherwise: float) -> float:
    return value if value is not None and known(value) else otherwise
