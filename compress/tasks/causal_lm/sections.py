"""Report sections of language models: generated answers and lm-eval tasks."""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq

from compress.core.records import GeneratedAnswers, RunRecord, StepRecord, TaskScore
from compress.reporting.data.paired import PairedCounts
from compress.reporting.data.row import (
    accuracy_on,
    baseline_of,
    deployed_of,
    first_target,
    ordered_steps,
    partner_of,
)
from compress.reporting.render.document import Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, p_value, percent

MAX_EXAMPLES = 10


def answers(run: RunRecord) -> Section:
    """Report the right answers after each step, and examples where the deployed model's correctness changed."""
    target = first_target(run)
    results = [
        (step, accuracy.written)
        for step in ordered_steps(run)
        if (accuracy := accuracy_on(step, target)) and accuracy.written
    ]
    baseline = next((written for step, written in results if step is baseline_of(run)), None)
    deployed = next((written for step, written in results if step is deployed_of(run)), None)
    lines = [
        row(
            step.step,
            count(sum(written.right)),
            percent(sum(written.right) / len(written.right)),
            p_value(written.p_value) or MISSING,
            written.verdict or MISSING,
            kind=step.role,
        )
        for step, written in results
    ]
    if baseline is None or not lines:
        return Section("written-answers", "Generated answers")
    header = ("Step", "right", "share", "p (McNemar)", "against the baseline")
    tables = [Table("Right answers", header, tuple(lines), frozenset({4})), _controls(results, run)]
    if deployed is not None and deployed is not baseline and deployed.examples == baseline.examples:
        changed = [index for index, same in enumerate(map(eq, baseline.right, deployed.right)) if not same]
        tables += [
            _side_by_side(
                baseline,
                deployed,
                [accuracy for accuracy in changed if baseline.right[accuracy]],
                "Newly wrong",
            ),
            _side_by_side(
                baseline,
                deployed,
                [accuracy for accuracy in changed if deployed.right[accuracy]],
                "Newly right",
            ),
        ]
    notes = (
        f"{len(baseline.right)} prompts of the test split were answered by greedy decoding on the target and judged by "
        f"`{baseline.validator}`. Examples are numbered by their position in the test split, from 0.",
    )
    return section_of("written-answers", "Generated answers", *tables, paragraphs=notes)


def _controls(results: Sequence[tuple[StepRecord, GeneratedAnswers]], run: RunRecord) -> Table:
    """Compare steps with their controls."""
    answered = {step.step: written for step, written in results}
    lines = []
    for control, control_answers in results:
        step = partner_of(run, control) if control.role == "control" else None
        step_answers = None if step is None else answered.get(step.step)
        if (
            step is not None
            and step_answers is not None
            and step_answers.examples == control_answers.examples
        ):
            test = PairedCounts.of(control_answers.right, step_answers.right).test
            shares = (percent(sum(one.right) / len(one.right)) for one in (step_answers, control_answers))
            p_text = p_value(test.p_value) or MISSING
            lines.append(row(step.step, control.step, *shares, p_text, test.verdict))
    header = ("Step", "control", "right", "right (control)", "p (McNemar)", "the step is")
    return Table("Right answers compared with the control", header, tuple(lines), frozenset({1, 5}))


def tasks(run: RunRecord) -> Section:
    """Report each step's scores on lm-eval tasks, and their retention of the baseline's."""
    target = first_target(run)
    lines = []
    steps = [(step, scored.tasks) for step in ordered_steps(run) if (scored := accuracy_on(step, target))]
    baseline = {score.task: score for step, scores in steps if step is baseline_of(run) for score in scores}
    harness = {f"{score.harness} ({score.task} version {score.version})" for score in baseline.values()}
    for step, scores in steps:
        for score in scores:
            metric = score.metrics[0]
            retention = score_retention(score, baseline.get(score.task))
            lines.append(
                row(
                    step.step,
                    score.task,
                    *(
                        "; ".join(f"{other.name} {percent(other.value)}" for other in part) or MISSING
                        for part in (score.metrics[:1], score.metrics[1:])
                    ),
                    f"{percent(metric.low)} to {percent(metric.high)}",
                    count(metric.n),
                    MISSING if retention is None else percent(retention),
                    p_value(score.p_value) or MISSING,
                    score.verdict or MISSING,
                    kind=step.role,
                )
            )
    header = ("Step", "Task", "right", "others", "95 %", "documents", "retention", "p (McNemar)", "verdict")
    if not lines:
        return Section("lm-eval", "lm-eval tasks")
    notes = (f"Prompts and scoring by {'; '.join(sorted(harness))}; run on the target.",)
    return section_of(
        "lm-eval",
        "lm-eval tasks",
        Table("Scores", header, tuple(lines), frozenset({1, 2, 3, 8})),
        paragraphs=notes,
    )


def score_retention(task: TaskScore, baseline: TaskScore | None) -> float | None:
    """Return the retention of the baseline's score; None if that is not above 0."""
    baseline_value = 0.0 if baseline is None else baseline.metrics[0].value
    return task.metrics[0].value / baseline_value if baseline_value else None


def _side_by_side(
    baseline: GeneratedAnswers, deployed: GeneratedAnswers, indices: Sequence[int], caption: str
) -> Table:
    """Show prompts with both answers, if the report includes texts."""
    if len(indices) > MAX_EXAMPLES:
        caption = f"{caption} (the first {MAX_EXAMPLES} of {len(indices)})"
    texts = (deployed.prompts, deployed.expected, baseline.answers, deployed.answers)
    header = ("prompt", "expected", "baseline", "deployed") if all(texts) else ()
    lines = tuple(
        row(
            str(deployed.examples[index]),
            *(" ".join(column[index].split()) or MISSING for column in texts if header),
        )
        for index in indices[:MAX_EXAMPLES]
    )
    return Table(caption, ("Example", *header), lines, frozenset(range(1, 1 + len(header))))
