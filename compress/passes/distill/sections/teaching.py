"""Report rows on a distillation: teachers, losses, examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from compress.core.records import RunRecord, Sample, StepRecord
from compress.core.units import format_seconds
from compress.passes.distill.kind import OWN_TEXTS, TRAINING_FACTS
from compress.passes.distill.spec import DistillSpec
from compress.reporting.render.document import Cell, Row, row
from compress.reporting.render.numbers import count, percent
from compress.reporting.render.scores import examples_noun, metric_format
from compress.reporting.sections.facts import value_words

_SPLIT_LABELS = {"train_score": "on the training split", "validation_score": "on the validation split"}


def taught(run: RunRecord) -> list[Row]:
    """Build the rows of all distillations: a name and a description for each known fact."""
    # Later steps inherit the facts of their input model.
    return [line for step in run.steps if step.kind == DistillSpec.kind for line in _step_rows(step, run)]


def sample_rows(step: StepRecord, samples: Iterable[Sample]) -> list[Row]:
    """Build one row per sample text: why it is shown, the prompt, the answer."""
    return [
        row(step.step, one.why, " ".join(one.prompt.split()), " ".join(one.answer.split())) for one in samples
    ]


def _step_rows(step: StepRecord, run: RunRecord) -> list[Row]:
    descriptions: list[tuple[str, str]] = []
    for key in TRAINING_FACTS:
        if key in step.facts and step.facts[key] not in (None, [], {}):
            descriptions += _DESCRIBERS[key](step.facts[key], run)
    if step.facts.get("data_free"):
        descriptions.append(("compared with using training data", _compare_with_control(step, run)))
    descriptions = [(what.removesuffix(f": {step.step}"), how) for what, how in descriptions]
    return [
        row(Cell(step.step if number == 0 else ""), what, how)
        for number, (what, how) in enumerate(descriptions)
    ]


def _describe_selection(selection: Any, run: RunRecord) -> list[tuple[str, str]]:
    if not isinstance(selection, Mapping) or not {"examples", "of"} <= set(selection):
        return [("selected", value_words(selection))]
    rest = _describe_facts(
        {key: value for key, value in selection.items() if key not in ("examples", "of")}, run
    )
    return [
        (
            "selected",
            "; ".join(
                [_count_of_total(selection["examples"], selection["of"], examples_noun(run.task)), *rest]
            ),
        )
    ]


def _count_of_total(selected: int, total: int, noun: str) -> str:
    return f"{count(selected)} of {count(total)} {noun}{f' ({percent(selected / total)})' if total else ''}"


def _describe_teachers(teachers: Any, run: RunRecord) -> list[tuple[str, str]]:
    alone = isinstance(teachers, Sequence) and len(teachers) == 1 and isinstance(teachers[0], Mapping)
    if alone:
        teachers = [{key: value for key, value in teachers[0].items() if key != "weight"}]
    return [(what, how) for what, how in _numbered_rows(teachers, "teacher", run) if how or what != "teacher"]


def _describe_data_free(data_free: Any, run: RunRecord) -> list[tuple[str, str]]:
    words = _describe_facts(data_free, run) if isinstance(data_free, Mapping) else [value_words(data_free)]
    return [("no training data used", "; ".join(words))]


def _compare_with_control(step: StepRecord, run: RunRecord) -> str:
    """Compare the score of a data-free student with that of its control trained on the data."""
    control = next((other for other in run.steps if other.step == f"{step.step}.control"), None)
    if control is None or not control.measurements or not step.measurements:
        return "not measured; with `control: true` in the profile the same student is also trained on it"
    scale = metric_format(run.metric)
    without_data, with_data = (one.measurements[0].accuracy.metrics[0].value for one in (step, control))
    return (
        f"{scale.words} {scale.value(without_data)} without it, {scale.value(with_data)} for the same "
        "student trained on it, "
        "on the test split"
    )


_DESCRIBERS: Mapping[str, Callable[[Any, RunRecord], list[tuple[str, str]]]] = {
    "shown": lambda shown, _: [("data", value_words(shown))],
    "teachers": _describe_teachers,
    "kept": _describe_selection,
    "stages": lambda stages, run: _numbered_rows(stages, "stage", run),
    "assistants": lambda assistants, run: _numbered_rows(assistants, "assistant", run),
    "generations": lambda generations, run: _numbered_rows(generations, "generation", run),
    "data_free": _describe_data_free,
    "warnings": lambda warnings, _: [("warning", str(warning)) for warning in warnings],
}


def _numbered_rows(values: Any, noun: str, run: RunRecord) -> list[tuple[str, str]]:
    """Return a row for each of several values: numbered, with its name if it has one."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return [(noun, value_words(values))]
    plural = len(values) > 1
    rows = []
    for number, value in enumerate(values, start=1):
        label = f"{noun} {number}" if plural else noun
        if not isinstance(value, Mapping):
            rows.append((label, value_words(value)))
            continue
        name = str(value.get("name") or "").rpartition(", ")[2]
        if name not in ("", str(number), label):
            label += f": {name}"
        rows.append((label, "; ".join(_describe_facts({k: v for k, v in value.items() if k != "name"}, run))))
    return rows


def _describe_facts(values: Mapping[str, Any], run: RunRecord) -> list[str]:
    """Format facts as phrases: `6 epochs`, `losses: logits, hidden`, `97.1 % accuracy on the validation split`."""
    scale = metric_format(run.metric)
    phrases = []
    for key, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and key.endswith("_score"):
            place = _SPLIT_LABELS.get(key, f"({key.removesuffix('_score').replace('_', ' ')})")
            phrases.append(f"{scale.words} {scale.value(scale.from_rank(value))} {place}")
        elif is_number and key == "examples":
            phrases.append(f"{count(value)} {examples_noun(run.task)}")
        elif key == "kept" and isinstance(value, Mapping) and {"tokens", "of"} <= set(value):
            phrases.append(f"learnt: {_count_of_total(value['tokens'], value['of'], 'tokens')}")
        elif key == OWN_TEXTS and isinstance(value, Mapping) and {"steps", "answers"} <= set(value):
            phrases.append(
                f"in {count(value['steps'])} steps it wrote {count(value['answers'])} answers itself"
            )
        elif is_number and key == "epochs":
            phrases.append(f"{value_words(value)} {'epoch' if value == 1 else 'epochs'}")
        elif is_number and key == "seconds":
            phrases.append(format_seconds(value))
        elif value is not None:
            phrases.append(f"{key.replace('_', ' ')}: {value_words(value)}")
    return phrases
