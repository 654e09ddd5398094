"""The sections on single answers: which changed against the baseline and to what, and how sure the models are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.core.records import Accuracy, RunRecord
from compress.reporting.data.paired import paired
from compress.reporting.data.row import accuracy_on, baseline_of, deployed_of, first_target, ordered
from compress.reporting.render.document import Row, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, known, percent, points
from compress.reporting.render.scores import examples_word
from compress.reporting.sections.calibration import BINS, error_of
from compress.reporting.sections.classes import label_name

SHOWN = 10


@dataclass(frozen=True)
class Answers:
    """Indices of the test examples whose answer is another than the baseline's: `fixed` is right now, `broken` was
    right before, `other` is wrong in another way."""

    fixed: tuple[int, ...]
    broken: tuple[int, ...]
    other: tuple[int, ...]


def changed_answers(baseline: Accuracy | None, model: Accuracy | None) -> Answers | None:
    """What changed from the baseline to a model; None where they were not scored on the same labelled examples."""
    if baseline is None or model is None or paired(baseline, model) is None:
        return None
    rows = enumerate(zip(model.truth, baseline.predictions, model.predictions, strict=True))
    changed = [(index, truth, old, new) for index, (truth, old, new) in rows if old != new]
    return Answers(
        tuple(index for index, truth, _, new in changed if new == truth),
        tuple(index for index, truth, old, _ in changed if old == truth),
        tuple(index for index, truth, old, new in changed if truth not in (old, new)),
    )


def answers(run: RunRecord) -> Section:
    """How many answers each step changed, and some of those that the deployed model changed."""
    target = first_target(run)
    baseline, deployed = baseline_of(run), deployed_of(run)
    before = accuracy_on(baseline, target)
    lines = []
    for step in ordered(run):
        found = None if step is baseline else changed_answers(before, accuracy_on(step, target))
        if found is not None:
            numbers = (len(found.fixed), len(found.broken), len(found.other))
            kind = "deployed" if step is deployed else step.role
            lines.append(row(step.step, *map(count, numbers), kind=kind))
    noun = examples_word(run.task)
    columns = ("Step", "right now, wrong before", "wrong now, right before", "wrong in another way")
    tables = [Table(f"Test {noun} whose answer is another than the baseline's", columns, tuple(lines))]
    after = accuracy_on(deployed, target)
    found = None if deployed is baseline else changed_answers(before, after)
    if found is not None and before is not None and after is not None:
        tables += [
            _examples(run, before, after, found.broken, "Wrong now, right before"),
            _examples(run, before, after, found.fixed, "Right now, wrong before"),
        ]
    words = ("An example is named by its place in the test split, counted from 0.",)
    return section_of("answers", "Answers that changed", *tables, words=words)


def calibration(run: RunRecord) -> Section:
    """The calibration error before and after each pass, where the probabilities were recorded."""
    target = first_target(run)
    lines: list[Row] = []
    before: float | None = None
    for step in ordered(run):
        accuracy = accuracy_on(step, target)
        error = error_of(accuracy)
        if accuracy is None or error is None:
            continue
        change = points(error - before) if before is not None and step.role == "step" else MISSING
        sure = sum(accuracy.confidence) / len(accuracy.confidence)
        cells = percent(sure), percent(accuracy.metrics[0].value), percent(error), change
        lines.append(row(step.step, *cells, kind=step.role))
        if step.role in ("baseline", "step"):
            before = error
    words = (
        f"The expected calibration error (ECE; Guo et al. 2017): the test examples are put into {BINS} bins of equal "
        "width by the probability of their prediction; the error is the mean over the examples of the distance between "
        "the share of right predictions in their bin and the mean probability there. A model that is right as often as "
        "it is sure has 0. The change is against the pass before.",
    )
    columns = ("Step", "mean probability", run.metric, "ECE", "change, points")
    table = Table("How sure, and how right", columns, tuple(lines))
    return section_of("calibration", "Calibration", table, words=words)


def _examples(
    run: RunRecord, before: Accuracy, after: Accuracy, indices: Sequence[int], caption: str
) -> Table:
    """Some examples: those of which the deployed model is most sure, where that was recorded, else the first."""
    sure = after.confidence if len(after.confidence) == len(after.truth) else ()
    chosen = sorted(indices, key=lambda index: (-sure[index] if sure else 0.0, index))[:SHOWN]
    shown = any(index in run.excerpts for index in chosen)
    lines = tuple(
        row(
            str(index),
            *((run.excerpts.get(index, MISSING),) if shown else ()),
            label_name(run, after.truth[index]),
            label_name(run, before.predictions[index]),
            label_name(run, after.predictions[index]),
            *((percent(sure[index]),) if sure and known(sure[index]) else ()),
        )
        for index in chosen
    )
    if len(indices) > SHOWN:
        order = "of which it is most sure" if sure else "that stand first"
        caption = f"{caption} (the {SHOWN} {order}, of {len(indices)})"
    columns = ("Example", *(("text",) if shown else ()), "true label", "baseline", "deployed")
    return Table(
        caption, (*columns, *(("probability",) if sure else ())), lines, frozenset(range(1, len(columns)))
    )
