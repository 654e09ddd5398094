"""The section on training: how each student was taught, and what its losses and scores did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compress.core.records import Curve, RunRecord, StepRecord
from compress.core.units import format_seconds
from compress.report.render.document import Cell, Course, Figure, Row, Section, Table, Training, row
from compress.report.render.numbers import MISSING, count, known, percent, significant
from compress.report.render.scores import Reading, examples_word, reading
from compress.report.sections.facts import value_words

TAUGHT = ("shown", "teachers", "kept", "stages", "assistants", "generations", "data_free", "warnings")
"""The facts of a distillation that the table of teaching shows."""

_LABELS = {"train_score": "on the training split", "validation_score": "on the validation split"}


def training(run: RunRecord) -> Section:
    """How the students were taught, training runs in a table, and their curves."""
    read = reading(run.metric)
    taught = [line for step in run.steps for line in _taught(step, run)]
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
            ("Run", "steps", "epochs", "last loss", f"best validation {read.words}", "at step"),
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
    )


def _figure(name: str, curves: Sequence[Curve], read: Reading) -> Figure:
    """One plot of all training runs of a step, each where the one before it ended."""
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


def _course(curve: Curve, name: str, end: int, read: Reading) -> Course:
    """A curve, moved behind step `end` where its own steps begin anew."""
    moved = end if curve.points[0].step <= end else 0
    losses = [(moved + point.step, point.train_loss) for point in curve.points if known(point.train_loss)]
    scores = [
        (moved + point.step, read.factor * (read.measured(point.validation_score) or 0.0))
        for point in curve.points
        if known(point.validation_score)
    ]
    return Course(
        curve.name.removeprefix(f"{name}, "),
        tuple(step for step, _ in losses),
        tuple(loss for _, loss in losses),
        tuple(step for step, _ in scores),
        tuple(score for _, score in scores),
    )


def _unit(read: Reading) -> str:
    return " %" if read.percent else ""


def _taught(step: StepRecord, run: RunRecord) -> list[Row]:
    """The rows on one distillation, of whatever its facts hold."""
    words: list[tuple[str, str]] = []
    if step.kind != "distill":
        # Later steps keep what is known of the model that they were given.
        return []
    for key in TAUGHT:
        if key in step.facts and step.facts[key] not in (None, [], {}):
            words += _SAY[key](step.facts[key], run)
    if step.facts.get("data_free"):
        words.append(("against the training data", _given_up(step, run)))
    words = [(what.removesuffix(f": {step.step}"), how) for what, how in words]
    return [
        row(Cell(step.step if number == 0 else ""), what, how) for number, (what, how) in enumerate(words)
    ]


def _say_shown(shown: Any, run: RunRecord) -> list[tuple[str, str]]:
    return [("data", value_words(shown))]


def _say_kept(kept: Any, run: RunRecord) -> list[tuple[str, str]]:
    if not isinstance(kept, Mapping) or not {"examples", "of"} <= set(kept):
        return [("selected", value_words(kept))]
    share = f" ({percent(kept['examples'] / kept['of'])})" if kept["of"] else ""
    rest = _further({key: value for key, value in kept.items() if key not in ("examples", "of")}, run)
    of = f"{count(kept['examples'])} of {count(kept['of'])} {examples_word(run.task)}{share}"
    return [("selected", "; ".join([of, *rest]))]


def _say_stages(stages: Any, run: RunRecord) -> list[tuple[str, str]]:
    return _each(stages, "stage", run)


def _say_teachers(teachers: Any, run: RunRecord) -> list[tuple[str, str]]:
    alone = isinstance(teachers, Sequence) and len(teachers) == 1 and isinstance(teachers[0], Mapping)
    if alone:
        teachers = [{key: value for key, value in teachers[0].items() if key != "weight"}]
    return [(what, how) for what, how in _each(teachers, "teacher", run) if how or what != "teacher"]


def _say_assistants(assistants: Any, run: RunRecord) -> list[tuple[str, str]]:
    return _each(assistants, "assistant", run)


def _say_generations(generations: Any, run: RunRecord) -> list[tuple[str, str]]:
    return _each(generations, "generation", run)


def _say_data_free(data_free: Any, run: RunRecord) -> list[tuple[str, str]]:
    words = _further(data_free, run) if isinstance(data_free, Mapping) else [value_words(data_free)]
    return [("no training data was shown", "; ".join(words))]


def _say_warnings(warnings: Any, run: RunRecord) -> list[tuple[str, str]]:
    return [("warning", str(warning)) for warning in warnings]


def _given_up(step: StepRecord, run: RunRecord) -> str:
    """What a student that saw no training data gives up against the same one that saw it."""
    control = next((other for other in run.steps if other.step == f"{step.step}.control"), None)
    if control is None or not control.measurements or not step.measurements:
        return "not measured; `control: true` in the profile teaches the same student with it, too"
    read = reading(run.metric)
    without, with_data = (one.measurements[0].accuracy.metrics[0].value for one in (step, control))
    return (
        f"{read.words} {read.value(without)} without it, {read.value(with_data)} for the same student taught with it, "
        "on the test split"
    )


_SAY: Mapping[str, Callable[[Any, RunRecord], list[tuple[str, str]]]] = {
    "shown": _say_shown,
    "teachers": _say_teachers,
    "kept": _say_kept,
    "stages": _say_stages,
    "assistants": _say_assistants,
    "generations": _say_generations,
    "data_free": _say_data_free,
    "warnings": _say_warnings,
}


def _each(values: Any, noun: str, run: RunRecord) -> list[tuple[str, str]]:
    """A row for each of several: numbered, with its name where it has one."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return [(noun, value_words(values))]
    several = len(values) > 1
    rows = []
    for number, value in enumerate(values, start=1):
        what = f"{noun} {number}" if several else noun
        if not isinstance(value, Mapping):
            rows.append((what, value_words(value)))
            continue
        name = str(value.get("name") or "").rpartition(", ")[2]
        if name not in ("", str(number), what):
            what += f": {name}"
        rows.append((what, "; ".join(_further({k: v for k, v in value.items() if k != "name"}, run))))
    return rows


def _further(values: Mapping[str, Any], run: RunRecord) -> list[str]:
    """Facts as phrases: `6 epochs`, `losses: logits, hidden`, `97.1 % accuracy on the validation split`."""
    read = reading(run.metric)
    said = []
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and key.endswith("_score"):
            place = _LABELS.get(key, f"({key.removesuffix('_score').replace('_', ' ')})")
            said.append(f"{read.words} {read.value(read.measured(value))} {place}")
        elif number and key == "examples":
            said.append(f"{count(value)} {examples_word(run.task)}")
        elif number and key == "epochs":
            said.append(f"{value_words(value)} {'epoch' if value == 1 else 'epochs'}")
        elif number and key == "seconds":
            said.append(format_seconds(value))
        elif value is not None:
            said.append(f"{key.replace('_', ' ')}: {value_words(value)}")
    return said
