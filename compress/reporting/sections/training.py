"""Section on training: how models were trained, with loss and score curves."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.plugins import call
from compress.core.records import Curve, RunRecord, StepRecord
from compress.core.units import format_seconds
from compress.passes.table import PASSES
from compress.reporting.render.document import Figure, Row, Section, Table, Training, TrainingCurve, row
from compress.reporting.render.numbers import MISSING, count, known, significant
from compress.reporting.render.scores import Reading, reading


def training(run: RunRecord) -> Section:
    """Build the section of how models were trained: tables of methods and training runs, and curves."""
    read = reading(run.metric)
    taught = [line for kind in PASSES.values() if kind.taught for line in call(kind.taught, run)]
    figures, rows = [], []
    for step in run.steps:
        curves = [curve for curve in step.curves if curve.points]
        rows += [_run_row(_name(step, curve), curve, read) for curve in curves]
        drawn = [curve for curve in curves if len(curve.points) > 1]
        if drawn:
            name = step.step if len(drawn) > 1 else _name(step, drawn[0])
            figures.append(_figure(name, drawn, read))
    tables = (
        Table("How it was taught", ("Step", "what", "how"), tuple(taught), frozenset({1, 2})),
        Table(
            "Training runs",
            ("Run", "steps", "epochs", "last loss", f"best validation {read.words}", "at step", "time"),
            tuple(rows),
        ),
    )
    return Section(
        "training", "Training", tables=tuple(table for table in tables if table.rows), figures=tuple(figures)
    )


def _name(step: StepRecord, curve: Curve) -> str:
    return curve.name if curve.name.startswith(step.step) else f"{step.step}, {curve.name}"


def _run_row(name: str, curve: Curve, read: Reading) -> Row:
    scored = [point for point in curve.points if known(point.validation_score)]
    best = max(scored, key=lambda point: point.validation_score or 0.0, default=None)
    last = curve.points[-1]
    return row(
        name,
        count(last.step),
        significant(last.epoch),
        significant(last.train_loss),
        read.value(read.measured(best.validation_score)) if best else MISSING,
        count(best.step) if best else MISSING,
        MISSING if curve.seconds is None else format_seconds(curve.seconds),
    )


def _figure(name: str, curves: Sequence[Curve], read: Reading) -> Figure:
    """Return one plot of all training runs of a step, each starting where the previous one ended."""
    courses, said, end = [], [], 0
    for curve in curves:
        course = _course(curve, name, end, read)
        courses.append(course)
        end = max((*course.steps, *course.score_steps, end))
        losses, scores = course.losses, course.scores
        words = f"the loss goes from {significant(losses[0])} to {significant(losses[-1])}" if losses else ""
        if scores:
            ends = f"{read.on_axis(scores[0])}{_unit(read)} to {read.on_axis(scores[-1])}{_unit(read)}"
            words += f", the validation {read.words} from {ends}"
        if len(curves) > 1:
            words = f"{course.name}: {words}"
        said.append(words[:1].upper() + words[1:] if len(curves) == 1 else words)
    plot = Training(tuple(courses), f"validation {read.axis}", read.smaller_is_better)
    return Figure(plot, f"{name}: training loss and validation {read.words}.", f"{name}. {'; '.join(said)}.")


def _course(curve: Curve, name: str, end: int, read: Reading) -> TrainingCurve:
    """Convert a curve, shifted by `end` if its own steps start again from the beginning."""
    moved = end if curve.points[0].step <= end else 0
    losses = [(moved + point.step, point.train_loss) for point in curve.points if known(point.train_loss)]
    scores = [
        (moved + point.step, read.factor * (read.measured(point.validation_score) or 0.0))
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


def _unit(read: Reading) -> str:
    return " %" if read.percent else ""
