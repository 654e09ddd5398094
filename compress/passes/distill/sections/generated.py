"""Report section on generated texts that the teacher labels: acceptance, agreement, cost, samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.core.units import format_seconds
from compress.passes.distill.kind import GENERATED
from compress.passes.distill.sections.teaching import sample_rows
from compress.passes.distill.spec import DistillSpec
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Row, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, percent, significant

MAX_LABELS = 30
"""Maximum number of labels shown: those with the lowest agreement of the teacher."""


def generated(run: RunRecord) -> Section:
    """Build the section: shares by reason, labels, costs and samples of each distillation with generated texts."""
    entries = [(step, step.facts[GENERATED]) for step in ordered_steps(run) if _has_own_facts(step)]
    reasons = [
        row(step.step, reason, count(number), percent(number / facts["answers"]))
        for step, facts in entries
        for reason, number in facts["by_reason"].items()
    ]
    costs = [
        row(
            step.step,
            facts["model"] or MISSING,
            facts["license"],
            significant(-facts["writer"]["validation_score"]),
            count(facts["answers"]),
            count(facts["tokens"]),
            count(facts["written_before"]),
            format_seconds(facts["seconds"]),
        )
        for step, facts in entries
    ]
    samples = [line for step, _ in entries for line in sample_rows(step, step.samples)]
    words = tuple(
        f"{step.step}: {count(facts['kept'])} of the {count(facts['wanted'])} requested texts are kept. The teacher "
        f"gives {percent(facts['agreed'] / facts['kept'])} of them the requested label; the student learns the "
        "teacher's outputs for all of them."
        for step, facts in entries
    )
    tables = (
        Table("Generated texts", ("Step", "", "texts", "share"), tuple(reasons), frozenset({1})),
        Table(
            "By label, lowest agreement of the teacher first",
            ("Step", "label", "requested", "written", "kept", "agreement"),
            tuple(line for step, facts in entries for line in _label_rows(step, facts)),
            frozenset({1}),
        ),
        Table(
            "Generating model and cost",
            ("Step", "model", "licence", "perplexity", "texts", "tokens", "written before", "time"),
            tuple(costs),
            frozenset({1, 2}),
        ),
        Table("Samples", ("Step", "", "requested label", "text"), tuple(samples), frozenset({1, 2, 3})),
    )
    return section_of("generated-texts", "Generated texts labelled by the teacher", *tables, paragraphs=words)


def _label_rows(step: StepRecord, facts: Mapping[str, Any]) -> list[Row]:
    labels = sorted(facts["by_label"].items(), key=lambda one: one[1][3] / max(1, one[1][2]))
    return [
        row(
            step.step,
            name,
            count(requested),
            count(written),
            count(kept),
            percent(agreed / kept if kept else None),
        )
        for name, (requested, written, kept, agreed) in labels[:MAX_LABELS]
    ]


def _has_own_facts(step: StepRecord) -> bool:
    # Later steps inherit the facts of their input model.
    return step.kind == DistillSpec.kind and isinstance(step.facts.get(GENERATED), Mapping)
