"""Section on training: how models were trained, with loss and score curves."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.plugins import call_named
from compress.core.records import Curve, RunRecord, StepRecord
from compress.core.units import format_seconds
from compress.passes.table import PASSES
from compress.reporting.render.document import Figure, Row, Section, Table, TrainingCurve, TrainingPlot, row
from compress.reporting.render.numbers import MISSING, count, known, significant
from compress.reporting.render.scores import MetricFormat, metric_format


def training(run: RunRecord) -> Section:
    """Build the section of how models were trained: tables of methods and training runs, and curves."""
    fmt = metric_format(run.metric)
    method_rows = [line for kind in PASSES.values() if kind.taught for line in call_named(kind.taught, run)]
    figures, rows = [], []
    for step in run.steps:
        curves = [curve for curve in step.curves if curve.points]
        rows += [_run_row(_name(step, curve), curve, fmt) for curve in curves]
        plotted = [curve for curve in curves if len(curve.points) > 1]
        if plotted:
            name = step.step if len(plotted) > 1 else _name(step, plotted[0])
            figures.append(_figure(name, plotted, fmt))
    tables = (
        Table("How it was taught", ("Step", "what", "how"), tuple(method_rows), frozenset({1, 2})),
        Table(
            "Training runs",
            ("Run", "steps", "epochs", "last loss", f"best validation {fmt.words}", "at step", "time"),
            tuple(rows),
        ),
    )
    return Section(
        "training", "Training", tables=tuple(table for table in tables if table.rows), figures=tuple(figures)
    )


def _name(step: StepRecord, curve: Curve) -> str:
    return curve.name if curve.name.startswith(step.step) else f"{step.step}, {curve.name}"


def _run_row(name: str, curve: Curve, fmt: MetricFormat) -> Row:
    scored = [point for point in curve.points if known(point.validation_score)]
    best = max(scored, key=lambda point: point.validation_score or 0.0, default=None)
    last = curve.points[-1]
    return row(
        name,
        count(last.step),
        significant(last.epoch),
        significant(last.train_loss),
        fmt.value(fmt.from_rank(best.validation_score)) if best else MISSING,
        count(best.step) if best else MISSING,
        MISSING if curve.seconds is None else format_seconds(curve.seconds),
    )


def _figure(name: str, curves: Sequence[Curve], fmt: MetricFormat) -> Figure:
    """Return one plot of all training runs of a step, each starting where the previous one ended."""
    training_curves, descriptions, end = [], [], 0
    for curve in curves:
        training_curve = _training_curve(curve, name, end, fmt)
        training_curves.append(training_curve)
        end = max((*training_curve.steps, *training_curve.score_steps, end))
        losses, scores = training_curve.losses, training_curve.scores
        description = (
            f"the loss goes from {significant(losses[0])} to {significant(losses[-1])}" if losses else ""
        )
        if scores:
            ends = f"{fmt.on_axis(scores[0])}{_unit(fmt)} to {fmt.on_axis(scores[-1])}{_unit(fmt)}"
            description += f", the validation {fmt.words} from {ends}"
        if len(curves) > 1:
            description = f"{training_curve.name}: {description}"
        descriptions.append(description[:1].upper() + description[1:] if len(curves) == 1 else description)
    plot = TrainingPlot(tuple(training_curves), f"validation {fmt.axis_label}", fmt.smaller_is_better)
    return Figure(
        plot, f"{name}: training loss and validation {fmt.words}.", f"{name}. {'; '.join(descriptions)}."
    )


def _training_curve(curve: Curve, name: str, end: int, fmt: MetricFormat) -> TrainingCurve:
    """Convert a curve, shifted by `end` if its own steps start again from the beginning."""
    offset = end if curve.points[0].step <= end else 0
    losses = [(offset + point.step, point.train_loss) for point in curve.points if known(point.train_loss)]
    scores = [
        (offset + point.step, fmt.factor * (fmt.from_rank(point.validation_score) or 0.0))
        for point in curve.points
        if known(point.validation_score)
    ]
    return TrainingCurve(
        curve.name.removeprefix(f"{name}, "),
        tuple(step for step, _ in losses),
        tuple(loss for _, loss in losses),
        tuple(step for step, _ in scores),
        tuple(score for _, score in scores),
    )


def _unit(fmt: MetricFormat) -> str:
    return " %" if fmt.percent else ""
