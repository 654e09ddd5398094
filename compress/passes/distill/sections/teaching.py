"""Report rows on a distillation: teachers, losses, examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from compress.core.records import RunRecord, Sample, StepRecord
from compress.core.units import format_seconds
from compress.passes.distill.kind import OWN_TEXTS, TAUGHT
from compress.passes.distill.spec import DistillSpec
from compress.reporting.render.document import Cell, Row, row
from compress.reporting.render.numbers import count, percent
from compress.reporting.render.scores import examples_word, reading
from compress.reporting.sections.facts import value_words

_LABELS = {"train_score": "on the training split", "validation_score": "on the validation split"}


def taught(run: RunRecord) -> list[Row]:
    """Build the rows of all distillations: a name and a description for each known fact."""
    # Later steps inherit the facts of their input model.
    return [line for step in run.steps if step.kind == DistillSpec.kind for line in _taught(step, run)]


def sample_rows(step: StepRecord, samples: Iterable[Sample]) -> list[Row]:
    """Build one row per sample text: why it is shown, the prompt, the answer."""
    return [
        row(step.step, one.why, " ".join(one.prompt.split()), " ".join(one.answer.split())) for one in samples
    ]


def _taught(step: StepRecord, run: RunRecord) -> list[Row]:
    words: list[tuple[str, str]] = []
    for key in TAUGHT:
        if key in step.facts and step.facts[key] not in (None, [], {}):
            words += _SAY[key](step.facts[key], run)
    if step.facts.get("data_free"):
        words.append(("compared with using training data", _given_up(step, run)))
    words = [(what.removesuffix(f": {step.step}"), how) for what, how in words]
    return [
        row(Cell(step.step if number == 0 else ""), what, how) for number, (what, how) in enumerate(words)
    ]


def _say_kept(kept: Any, run: RunRecord) -> list[tuple[str, str]]:
    if not isinstance(kept, Mapping) or not {"examples", "of"} <= set(kept):
        return [("selected", value_words(kept))]
    rest = _further({key: value for key, value in kept.items() if key not in ("examples", "of")}, run)
    return [("selected", "; ".join([_share(kept["examples"], kept["of"], examples_word(run.task)), *rest]))]


def _share(kept: int, of: int, noun: str) -> str:
    return f"{count(kept)} of {count(of)} {noun}{f' ({percent(kept / of)})' if of else ''}"


def _say_teachers(teachers: Any, run: RunRecord) -> list[tuple[str, str]]:
    alone = isinstance(teachers, Sequence) and len(teachers) == 1 and isinstance(teachers[0], Mapping)
    if alone:
        teachers = [{key: value for key, value in teachers[0].items() if key != "weight"}]
    return [(what, how) for what, how in _each(teachers, "teacher", run) if how or what != "teacher"]


def _say_data_free(data_free: Any, run: RunRecord) -> list[tuple[str, str]]:
    words = _further(data_free, run) if isinstance(data_free, Mapping) else [value_words(data_free)]
    return [("no training data used", "; ".join(words))]


def _given_up(step: StepRecord, run: RunRecord) -> str:
    """Compare the score of a data-free student with that of its control trained on the data."""
    control = next((other for other in run.steps if other.step == f"{step.step}.control"), None)
    if control is None or not control.measurements or not step.measurements:
        return "not measured; with `control: true` in the profile the same student is also trained on it"
    read = reading(run.metric)
    without, with_data = (one.measurements[0].accuracy.metrics[0].value for one in (step, control))
    return (
        f"{read.words} {read.value(without)} without it, {read.value(with_data)} for the same student trained on it, "
        "on the test split"
    )


_SAY: Mapping[str, Callable[[Any, RunRecord], list[tuple[str, str]]]] = {
    "shown": lambda shown, _: [("data", value_words(shown))],
    "teachers": _say_teachers,
    "kept": _say_kept,
    "stages": lambda stages, run: _each(stages, "stage", run),
    "assistants": lambda assistants, run: _each(assistants, "assistant", run),
    "generations": lambda generations, run: _each(generations, "generation", run),
    "data_free": _say_data_free,
    "warnings": lambda warnings, _: [("warning", str(warning)) for warning in warnings],
}


def _each(values: Any, noun: str, run: RunRecord) -> list[tuple[str, str]]:
    """Return a row for each of several values: numbered, with its name if it has one."""
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
    """Format facts as phrases: `6 epochs`, `losses: logits, hidden`, `97.1 % accuracy on the validation split`."""
    read = reading(run.metric)
    said = []
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and key.endswith("_score"):
            place = _LABELS.get(key, f"({key.removesuffix('_score').replace('_', ' ')})")
            said.append(f"{read.words} {read.value(read.measured(value))} {place}")
        elif number and key == "examples":
            said.append(f"{count(value)} {examples_word(run.task)}")
        elif key == "kept" and isinstance(value, Mapping) and {"tokens", "of"} <= set(value):
            said.append(f"learnt: {_share(value['tokens'], value['of'], 'tokens')}")
        elif key == OWN_TEXTS and isinstance(value, Mapping) and {"steps", "answers"} <= set(value):
            said.append(f"in {count(value['steps'])} steps it wrote {count(value['answers'])} answers itself")
        elif number and key == "epochs":
            said.append(f"{value_words(value)} {'epoch' if value == 1 else 'epochs'}")
        elif number and key == "seconds":
            said.append(format_seconds(value))
        elif value is not None:
            said.append(f"{key.replace('_', ' ')}: {value_words(value)}")
    return said
