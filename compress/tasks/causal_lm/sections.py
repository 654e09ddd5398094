"""Report sections of language models: generated answers and lm-eval tasks."""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq

from compress.core.records import RunRecord, StepRecord, TaskScore, Written
from compress.reporting.data.paired import Paired
from compress.reporting.data.row import (
    accuracy_on,
    baseline_of,
    deployed_of,
    first_target,
    ordered,
    partner_of,
)
from compress.reporting.render.document import Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, p_value, percent

SHOWN = 10


def answers(run: RunRecord) -> Section:
    """Report the right answers after each step, and examples where the deployed model's correctness changed."""
    target = first_target(run)
    found = [
        (step, one.written) for step in ordered(run) if (one := accuracy_on(step, target)) and one.written
    ]
    before = next((written for step, written in found if step is baseline_of(run)), None)
    after = next((written for step, written in found if step is deployed_of(run)), None)
    lines = [
        row(
            step.step,
            count(sum(written.right)),
            percent(sum(written.right) / len(written.right)),
            p_value(written.p_value) or MISSING,
            written.verdict or MISSING,
            kind=step.role,
        )
        for step, written in found
    ]
    if before is None or not lines:
        return Section("written-answers", "Generated answers")
    head = ("Step", "right", "share", "p (McNemar)", "against the baseline")
    tables = [Table("Right answers", head, tuple(lines), frozenset({4})), _controls(found, run)]
    if after is not None and after is not before and after.examples == before.examples:
        changed = [place for place, same in enumerate(map(eq, before.right, after.right)) if not same]
        tables += [
            _side_by_side(before, after, [one for one in changed if before.right[one]], "Newly wrong"),
            _side_by_side(before, after, [one for one in changed if after.right[one]], "Newly right"),
        ]
    words = (
        f"{len(before.right)} prompts of the test split were answered by greedy decoding on the target and judged by "
        f"`{before.validator}`. Examples are numbered by their position in the test split, from 0.",
    )
    return section_of("written-answers", "Generated answers", *tables, words=words)


def _controls(found: Sequence[tuple[StepRecord, Written]], run: RunRecord) -> Table:
    """Compare steps with their controls."""
    answered = {step.step: written for step, written in found}
    lines = []
    for control, theirs in found:
        step = partner_of(run, control) if control.role == "control" else None
        own = None if step is None else answered.get(step.step)
        if step is not None and own is not None and own.examples == theirs.examples:
            test = Paired.of(theirs.right, own.right).test
            shares = (percent(sum(one.right) / len(one.right)) for one in (own, theirs))
            told = p_value(test.p_value) or MISSING
            lines.append(row(step.step, control.step, *shares, told, test.verdict))
    head = ("Step", "control", "right", "right (control)", "p (McNemar)", "the step is")
    return Table("Right answers compared with the control", head, tuple(lines), frozenset({1, 5}))


def tasks(run: RunRecord) -> Section:
    """Report each step's scores on lm-eval tasks, and their retention of the baseline's."""
    target = first_target(run)
    lines = []
    steps = [(step, scored.tasks) for step in ordered(run) if (scored := accuracy_on(step, target))]
    baseline = {one.task: one for step, found in steps if step is baseline_of(run) for one in found}
    harness = {f"{one.harness} ({one.task} version {one.version})" for one in baseline.values()}
    for step, found in steps:
        for one in found:
            first = one.metrics[0]
            kept = share_kept(one, baseline.get(one.task))
            lines.append(
                row(
                    step.step,
                    one.task,
                    *(
                        "; ".join(f"{each.name} {percent(each.value)}" for each in part) or MISSING
                        for part in (one.metrics[:1], one.metrics[1:])
                    ),
                    f"{percent(first.low)} to {percent(first.high)}",
                    count(first.n),
                    MISSING if kept is None else percent(kept),
                    p_value(one.p_value) or MISSING,
                    one.verdict or MISSING,
                    kind=step.role,
                )
            )
    head = ("Step", "Task", "right", "others", "95 %", "documents", "retention", "p (McNemar)", "verdict")
    if not lines:
        return Section("lm-eval", "lm-eval tasks")
    words = (f"Prompts and scoring by {'; '.join(sorted(harness))}; run on the target.",)
    return section_of(
        "lm-eval",
        "lm-eval tasks",
        Table("Scores", head, tuple(lines), frozenset({1, 2, 3, 8})),
        words=words,
    )


def share_kept(task: TaskScore, baseline: TaskScore | None) -> float | None:
    """Return the retention of the baseline's score; None if that is not above 0."""
    before = 0.0 if baseline is None else baseline.metrics[0].value
    return task.metrics[0].value / before if before else None


def _side_by_side(before: Written, after: Written, chosen: Sequence[int], caption: str) -> Table:
    """Show prompts with both answers, if the report includes texts."""
    if len(chosen) > SHOWN:
        caption = f"{caption} (the first {SHOWN} of {len(chosen)})"
    texts = (after.prompts, after.expected, before.answers, after.answers)
    head = ("prompt", "expected", "baseline", "deployed") if all(texts) else ()
    lines = tuple(
        row(str(after.examples[one]), *(" ".join(column[one].split()) or MISSING for column in texts if head))
        for one in chosen[:SHOWN]
    )
    return Table(caption, ("Example", *head), lines, frozenset(range(1, 1 + len(head))))
