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
    measurement_on,
    metric_on,
    ordered_steps,
    partner_of,
    row_of,
    rows_of,
    secondary_metrics,
    speed_interval,
    speed_of,
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
    format_range,
    known,
    p_value,
    percent,
    percent_range,
    signed,
    significant,
    times,
    times_range,
)
from compress.reporting.render.scores import MetricFormat, metric_format, throughput_title
from compress.reporting.sections import attribution
from compress.tasks.table import quantities_of


def steps(run: RunRecord) -> Section:
    """Build the section with the main table: one row per step, the baseline first, the deployed step last."""
    deployed = deployed_of(run)
    task_quantities = [quantity for quantity in quantities_of(run.task) if quantity.column]
    secondary = secondary_metrics(run)
    table = Table(
        f"Every step on {first_target(run) or 'the first target'}: medians, with 95 % intervals below them; speed-up: "
        "the baseline's median divided by the step's, from the same rounds",
        (
            "Step",
            metric_format(run.metric).words,
            "retention",
            *(metric.display_name for metric in secondary),
            "p50 ms",
            "p95 ms",
            "baseline p50 ms",
            "speed-up",
            throughput_title(run.task),
            *(f"{quantity.display_name}, {quantity.unit}" for quantity in task_quantities),
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
                metric_format(run.metric),
                [_score_cell(run, step, metric.name) for metric in secondary],
                [_quantity_cell(run, step, quantity) for quantity in task_quantities],
            )
            for step, values in rows_of(run, first_target(run))
        ),
    )
    return section_of("steps", "Steps", table)


def score_plots(run: RunRecord) -> Section:
    """Build the section with plots of the score against latency and against size."""
    figures, fmt, speed, target = [], metric_format(run.metric), speed_of(run.task), first_target(run)
    y_direction = "down" if fmt.smaller_is_better else "up"
    rows = rows_of(run, target)
    sizes = [(values["size_mb"],) * 3 if known(values["size_mb"]) else None for _, values in rows]
    for x_values, label, x_words, x_direction in (
        (
            [speed_interval(run, step, target) for step, _ in rows],
            f"{speed.display_name}, {speed.unit}",
            speed.display_name,
            "left" if speed.smaller_is_better else "right",
        ),
        (sizes, "size on disk, MB", "size", "left"),
    ):
        points = [
            Point(
                values["step"],
                values["role"],
                x,
                (
                    fmt.factor * values["score"],
                    fmt.factor * _or(values["score_low"], values["score"]),
                    fmt.factor * _or(values["score_high"], values["score"]),
                ),
            )
            for (_, values), x in zip(rows, x_values, strict=True)
            if x is not None and x[0] > 0 and known(values["score"])
        ]
        if len(points) < 2:
            continue
        point_words = "; ".join(
            f"{point.label}: {fmt.value(point.y[0] / fmt.factor)} at {significant(point.x[0])}"
            for point in points
        )
        figures.append(
            Figure(
                Scatter(label, fmt.axis_label, tuple(points)),
                f"{fmt.title} against {x_words}; better is {y_direction} and to the {x_direction}. Bars are "
                "95 % intervals.",
                f"{fmt.words} against {label}. {point_words}.",
            )
        )
    return Section("plane", f"{fmt.title} against latency and size", figures=tuple(figures))


def passes(run: RunRecord) -> Section:
    """Build the section that compares each pass with the step before it, and each control with its own step."""
    chain = [row for row in ordered_steps(run) if row.role in ("baseline", "step") and row.status != "failed"]
    if len(chain) < 2:
        return Section("passes", "What each pass cost and gained")
    table = Table(
        "Each pass compared with its input model",
        ("Pass", metric_format(run.metric).change_label, "latency", "size", "memory", "parameters", "work"),
        tuple(_pass_row(run, before, after) for before, after in pairwise(chain)),
    )
    controls = [step for step in run.steps if step.role in ("control", "variant") and step.status != "failed"]
    comparison_table = Table(
        "Controls and variants compared with their step",
        ("Row", "compared with", metric_format(run.metric).change_label, "verdict"),
        tuple(
            comparison_row for step in controls if (comparison_row := _comparison_row(run, step)) is not None
        ),
        frozenset({1, 3}),
    )
    section = section_of(
        "passes", "What each pass cost and gained", table, comparison_table, attribution.table(run)
    )
    return replace(section, figures=_waterfalls(run, chain))


def _score_cell(run: RunRecord, step: StepRecord, metric: str) -> Cell:
    """Return a secondary score of a step, with its interval."""
    value = metric_on(step, first_target(run), metric)
    if value is None:
        return Cell(MISSING)
    return Cell(metric_format(metric).value(value.value), metric_format(metric).range(value.low, value.high))


def _quantity_cell(run: RunRecord, step: StepRecord, quantity: Quantity) -> Cell:
    """What a task is measured by, where a step was first timed for it."""
    measurement = measurement_on(step, first_target(run))
    timing = next(iter(quantity.matching(measurement.latency)), None) if measurement else None
    if timing is None:
        return Cell(MISSING)
    value = significant(quantity.value_of(timing))
    return Cell(value, "disturbed", "bad") if timing.disturbed else Cell(value)


def _step_row(
    values: dict[str, Any],
    step: StepRecord,
    is_deployed: bool,
    fmt: MetricFormat,
    secondary: Sequence[Cell],
    task_cells: Sequence[Cell],
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
        Cell(fmt.value(values["score"]), fmt.range(values["score_low"], values["score_high"])),
        Cell(
            percent(values["retention"]),
            no_difference
            if values["score_verdict"] == no_difference
            else percent_range(values["retention_low"], values["retention_high"]),
        ),
        *secondary,
        Cell(
            significant(values["latency_p50_ms"]),
            disturbed
            or format_range(values["latency_p50_low_ms"], values["latency_p50_high_ms"], significant),
            tone="bad" if disturbed else "",
        ),
        significant(values["latency_p95_ms"]),
        significant(values["baseline_p50_ms"]),
        Cell(
            MISSING if disturbed else times(values["speedup"]),
            disturbed or a_a or (no_difference if values["latency_verdict"] == no_difference else speed),
        ),
        significant(values["throughput"]),
        *task_cells,
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
    test = paired_test(accuracy_on(before, target), accuracy_on(after, target))
    change = new["score"] - old["score"] if known(new["score"]) and known(old["score"]) else None
    significance = "" if test is None else p_value(test.p_value) if test.is_significant else test.verdict
    latency = _change_cell(old["latency_p50_ms"], new["latency_p50_ms"], " ms")
    if old["disturbed"] or new["disturbed"]:
        latency = Cell(MISSING, "disturbed")
    elif latency.detail and not _speed_differs(old, new):
        latency = Cell("no difference", latency.detail)
    return row(
        Cell(after.step, f"after {before.step}"),
        Cell(metric_format(run.metric).change(change), significance),
        latency,
        _change_cell(old["size_mb"], new["size_mb"], " MB"),
        _change_cell(old["peak_memory_mb"], new["peak_memory_mb"], " MB"),
        _change_cell(before.parameters, after.parameters, ""),
        Cell(format_seconds(after.seconds), f"measured in {format_seconds(after.measure_seconds)}"),
    )


def _speed_differs(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the intervals of the speed-ups over the baseline, which machine drift does not affect, are disjoint."""
    bounds = [values[key] for values in (old, new) for key in ("speedup_low", "speedup_high")]
    if not all(known(end) for end in bounds):
        return False
    return bool(bounds[1] < bounds[2] or bounds[3] < bounds[0])


def _comparison_row(run: RunRecord, control: StepRecord) -> Row | None:
    partner = partner_of(run, control)
    if partner is None:
        return None
    target = first_target(run)
    first, second = accuracy_on(partner, target), accuracy_on(control, target)
    test = paired_test(first, second)
    if first is None or second is None or test is None or not (first.metrics and second.metrics):
        return None
    change = second.metrics[0].value - first.metrics[0].value
    return row(
        Cell(control.step, control.role),
        partner.step,
        metric_format(run.metric).change(change),
        Cell(test.verdict, p_value(test.p_value)),
    )


def _change_cell(before: float | None, after: float | None, unit: str) -> Cell:
    if not (known(before) and known(after)) or after <= 0 or before <= 0:
        return Cell(MISSING)
    said = [format_count(value) if not unit else significant(value) for value in (before, after)]
    return Cell(_ratio_words(before, after), f"{said[0]} → {said[1]}{unit}")


def _waterfalls(run: RunRecord, chain: Sequence[StepRecord]) -> tuple[Figure, ...]:
    """Return the changes of score and size from pass to pass, and of the latency on each target."""
    fmt, first = metric_format(run.metric), first_target(run)
    unit = "points" if fmt.percent else "change"
    grey = "grey where the difference is not significant"
    score = _score_waterfall(
        run, chain, f"{fmt.title}: {unit} lost or gained by each pass, the baseline at 0; {grey}."
    )
    input_to_output = "from each pass's input model to its output"
    latencies = [
        _ratio_waterfall(
            run,
            chain,
            target,
            "latency_p50_ms",
            "median latency, ms",
            f"Median latency{f' on {target}' if len(run.targets) > 1 else ''}: {input_to_output}; {grey}.",
        )
        for target in run.targets
    ]
    size = _ratio_waterfall(
        run, chain, first, "size_mb", "size on disk, MB", f"Size on disk: {input_to_output}."
    )
    return tuple(figure for figure in (score, *latencies, size) if figure is not None)


def _score_waterfall(run: RunRecord, chain: Sequence[StepRecord], caption: str) -> Figure | None:
    """Return the cumulative changes of the score on the first target."""
    fmt, target = metric_format(run.metric), first_target(run)
    measured_rows = _measured_rows(run, chain, target, "score")
    changes = []
    for (before, old), (after, new) in pairwise(measured_rows):
        pair = paired_test(accuracy_on(before, target), accuracy_on(after, target))
        start, end = (fmt.factor * (values["score"] - measured_rows[0][1]["score"]) for values in (old, new))
        differ = pair is not None and pair.is_significant
        changes.append(Change(after.step, start, end, signed(end - start, _decimals(fmt)), differ))
    label = f"{fmt.change_label}{'' if fmt.percent else ','} from the baseline"
    end_words = signed(changes[-1].after, _decimals(fmt)) if changes else ""
    return _waterfall(
        label, changes, caption, end_words, ratio=False, larger_is_better=not fmt.smaller_is_better
    )


def _decimals(fmt: MetricFormat) -> int:
    return 1 if fmt.percent else 3


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
        for (_, old), (after, new) in pairwise(_measured_rows(run, chain, target, key))
    ]
    return _waterfall(label, changes, caption, significant(changes[-1].after) if changes else "", ratio=True)


def _measured_rows(
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
    change_words = "; ".join(
        f"{change.label}: {change.text}" + ("" if change.is_significant else " (no difference)")
        for change in changes
    )
    plot = Waterfall(label, tuple(changes), larger_is_better=larger_is_better, ratio=ratio)
    return Figure(plot, caption, f"{label}. {change_words}. Ends at {end}.")


def _ratio_words(before: float, after: float) -> str:
    """Format a reduction as a factor: `÷15.2`; `×1.08` for an increase, `same` for no change."""
    factor = before / after
    if significant(factor) == significant(1.0):
        return "same"
    return f"÷{significant(factor)}" if factor > 1 else f"×{significant(1 / factor)}"


def _or(value: float | None, otherwise: float) -> float:
    return value if value is not None and known(value) else otherwise
