"""Report section on generated texts that the teacher labels: acceptance, agreement, cost, samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.core.units import format_seconds
from compress.passes.distill.kind import GENERATED
from compress.passes.distill.sections.teaching import sample_rows
from compress.passes.distill.spec import DistillSpec
from compress.reporting.data.row import ordered
from compress.reporting.render.document import Row, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, percent, significant

LABELS = 30
"""Maximum number of labels shown: those with the lowest agreement of the teacher."""


def generated(run: RunRecord) -> Section:
    """Build the section: shares by reason, labels, costs and samples of each distillation with generated texts."""
    found = [(step, step.facts[GENERATED]) for step in ordered(run) if _has_its_own(step)]
    reasons = [
        row(step.step, reason, count(number), percent(number / told["answers"]))
        for step, told in found
        for reason, number in told["by_reason"].items()
    ]
    costs = [
        row(
            step.step,
            told["model"] or MISSING,
            told["license"],
            significant(-told["writer"]["validation_score"]),
            count(told["answers"]),
            count(told["tokens"]),
            count(told["written_before"]),
            format_seconds(told["seconds"]),
        )
        for step, told in found
    ]
    samples = [line for step, _ in found for line in sample_rows(step, step.samples)]
    words = tuple(
        f"{step.step}: {count(told['kept'])} of the {count(told['wanted'])} requested texts are kept. The teacher "
        f"gives {percent(told['agreed'] / told['kept'])} of them the requested label; the student learns the "
        "teacher's outputs for all of them."
        for step, told in found
    )
    tables = (
        Table("Generated texts", ("Step", "", "texts", "share"), tuple(reasons), frozenset({1})),
        Table(
            "By label, lowest agreement of the teacher first",
            ("Step", "label", "requested", "written", "kept", "agreement"),
            tuple(line for step, told in found for line in _by_label(step, told)),
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
    return section_of("generated-texts", "Generated texts labelled by the teacher", *tables, words=words)


def _by_label(step: StepRecord, told: Mapping[str, Any]) -> list[Row]:
    lines = sorted(told["by_label"].items(), key=lambda one: one[1][3] / max(1, one[1][2]))
    return [
        row(
            step.step,
            name,
            count(wanted),
            count(tried),
            count(kept),
            percent(agreed / kept if kept else None),
        )
        for name, (wanted, tried, kept, agreed) in lines[:LABELS]
    ]


def _has_its_own(step: StepRecord) -> bool:
    # Later steps inherit the facts of their input model.
    return step.kind == DistillSpec.kind and isinstance(step.facts.get(GENERATED), Mapping)
