"""Report section on on-policy steps: number of the student's own texts, their cost, samples."""

from __future__ import annotations

from compress.core.records import RunRecord
from compress.core.units import format_seconds
from compress.passes.distill.kind import OWN_TEXTS
from compress.passes.distill.sections.teaching import sample_rows
from compress.passes.distill.spec import DistillSpec
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Section, Table, row, section_of
from compress.reporting.render.numbers import count, percent


def own_texts(run: RunRecord) -> Section:
    """Build the section: on-policy answers by stage, their cost for student and teacher, and samples."""
    # Later steps inherit the facts of their input model.
    steps = [step for step in ordered_steps(run) if step.kind == DistillSpec.kind]
    cost_rows = [
        row(
            step.step,
            stage["name"],
            f"{count(facts['steps'])} of {count(stage['steps'])}",
            count(facts["answers"]),
            count(facts["tokens"]),
            percent(facts["ended"] / facts["answers"]) if facts["answers"] else "",
            format_seconds(facts["seconds"]),
            format_seconds(facts["teacher_seconds"]),
        )
        for step in steps
        for stage in step.facts.get("stages", ())
        if (facts := stage.get(OWN_TEXTS))
    ]
    samples = [
        line
        for step in steps
        for line in sample_rows(step, (one for one in step.samples if one.by == "student"))
    ]
    head = ("Step", "stage", "steps", "answers", "tokens", "ended by itself", "writing", "teacher")
    tables = (
        Table("Texts written and their cost", head, tuple(cost_rows), frozenset({1})),
        Table(
            "First and last answers",
            ("Step", "", "prompt", "answer"),
            tuple(samples),
            frozenset({1, 2, 3}),
        ),
    )
    words = (
        "In these steps the student learnt from its own answers, which the teacher judged token by token. The "
        "teacher's time is for these steps only: its outputs for them cannot be cached.",
    )
    return section_of("own-texts", "What the student wrote", *tables, paragraphs=words)
