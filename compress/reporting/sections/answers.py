"""Sections on individual predictions: which differ from the baseline's, and how well calibrated the models are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.core.records import Accuracy, RunRecord
from compress.reporting.data.paired import paired_counts
from compress.reporting.data.row import accuracy_on, baseline_of, deployed_of, first_target, ordered_steps
from compress.reporting.render.document import Row, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, known, percent, points
from compress.reporting.render.scores import examples_noun
from compress.reporting.sections.calibration import BINS, error_of
from compress.reporting.sections.classes import label_name

MAX_SHOWN = 10


@dataclass(frozen=True)
class ChangedAnswers:
    """Indices of test examples whose prediction differs from the baseline's.

    Attributes:
        fixed: newly right.
        broken: newly wrong.
        other: wrong before and now, with different predictions.
    """

    fixed: tuple[int, ...]
    broken: tuple[int, ...]
    other: tuple[int, ...]


def changed_answers(baseline: Accuracy | None, model: Accuracy | None) -> ChangedAnswers | None:
    """Return the changed predictions of a model; None if it was not scored on the baseline's labelled examples."""
    if baseline is None or model is None or paired_counts(baseline, model) is None:
        return None
    rows = enumerate(zip(model.truth, baseline.predictions, model.predictions, strict=True))
    changed = [(index, truth, old, new) for index, (truth, old, new) in rows if old != new]
    return ChangedAnswers(
        tuple(index for index, truth, _, new in changed if new == truth),
        tuple(index for index, truth, old, _ in changed if old == truth),
        tuple(index for index, truth, old, new in changed if truth not in (old, new)),
    )


def answers(run: RunRecord) -> Section:
    """Build the section of changed predictions: counts for each step, and examples for the deployed model."""
    target = first_target(run)
    baseline, deployed = baseline_of(run), deployed_of(run)
    before = accuracy_on(baseline, target)
    lines = []
    for step in ordered_steps(run):
        changed = None if step is baseline else changed_answers(before, accuracy_on(step, target))
        if changed is not None:
            numbers = (len(changed.fixed), len(changed.broken), len(changed.other))
            kind = "deployed" if step is deployed else step.role
            lines.append(row(step.step, *map(count, numbers), kind=kind))
    noun = examples_noun(run.task)
    columns = ("Step", "newly right", "newly wrong", "still wrong, other answer")
    tables = [Table(f"Test {noun} answered differently from the baseline", columns, tuple(lines))]
    after = accuracy_on(deployed, target)
    changed = None if deployed is baseline else changed_answers(before, after)
    if changed is not None and before is not None and after is not None:
        tables += [
            _examples(run, before, after, changed.broken, "Newly wrong"),
            _examples(run, before, after, changed.fixed, "Newly right"),
        ]
    paragraphs = ("Examples are numbered by their position in the test split, from 0.",)
    return section_of("answers", "Answers that changed", *tables, paragraphs=paragraphs)


def calibration(run: RunRecord) -> Section:
    """Build the section with the calibration error before and after each pass, if probabilities were recorded."""
    target = first_target(run)
    lines: list[Row] = []
    before: float | None = None
    for step in ordered_steps(run):
        accuracy = accuracy_on(step, target)
        error = error_of(accuracy)
        if accuracy is None or error is None:
            continue
        change = points(error - before) if before is not None and step.role == "step" else MISSING
        mean_confidence = sum(accuracy.confidence) / len(accuracy.confidence)
        cells = percent(mean_confidence), percent(accuracy.metrics[0].value), percent(error), change
        lines.append(row(step.step, *cells, kind=step.role))
        if step.role in ("baseline", "step"):
            before = error
    paragraphs = (
        f"The expected calibration error (ECE; Guo et al. 2017): the test examples are grouped into {BINS} bins of "
        "equal width by the probability of their prediction; the error is the distance between accuracy and mean "
        "probability in a bin, averaged over the examples. A perfectly calibrated model has 0. The change is from the "
        "previous pass.",
    )
    columns = ("Step", "mean probability", run.metric, "ECE", "change, points")
    table = Table("Confidence and accuracy", columns, tuple(lines))
    return section_of("calibration", "Calibration", table, paragraphs=paragraphs)


def _examples(
    run: RunRecord, before: Accuracy, after: Accuracy, indices: Sequence[int], caption: str
) -> Table:
    """Return a table of examples: those with the deployed model's highest confidence if recorded, else the first."""
    confidences = after.confidence if len(after.confidence) == len(after.truth) else ()
    shown_indices = sorted(indices, key=lambda index: (-confidences[index] if confidences else 0.0, index))[
        :MAX_SHOWN
    ]
    has_excerpts = any(index in run.excerpts for index in shown_indices)
    lines = tuple(
        row(
            str(index),
            *((run.excerpts.get(index, MISSING),) if has_excerpts else ()),
            label_name(run, after.truth[index]),
            label_name(run, before.predictions[index]),
            label_name(run, after.predictions[index]),
            *((percent(confidences[index]),) if confidences and known(confidences[index]) else ()),
        )
        for index in shown_indices
    )
    if len(indices) > MAX_SHOWN:
        order = f"{MAX_SHOWN} most confident" if confidences else f"first {MAX_SHOWN}"
        caption = f"{caption} (the {order} of {len(indices)})"
    columns = ("Example", *(("text",) if has_excerpts else ()), "true label", "baseline", "deployed")
    return Table(
        caption,
        (*columns, *(("probability",) if confidences else ())),
        lines,
        frozenset(range(1, len(columns))),
    )
