"""Columns of a row that follow from the other rows of its run: changes, changed answers, what dominates it."""

from __future__ import annotations

from typing import Any

from compress.core.records import RunRecord
from compress.reporting.data.pareto import dominated_by
from compress.reporting.data.row import accuracy_on, baseline_of, first_target, ordered, plain
from compress.reporting.sections.answers import changed_answers
from compress.reporting.sections.attribution import changes
from compress.reporting.sections.calibration import error_of


def derived_columns(run: RunRecord) -> list[dict[str, Any]]:
    """For each step in the report's order: its calibration error, what it changed, what beats it; None if unknown.

    `answers_*` count test examples against the baseline. `dominated_by` lists the steps of the Pareto front that are
    better, none for a step on it.
    """
    baseline, target = baseline_of(run), first_target(run)
    before = accuracy_on(baseline, target)
    made = []
    for step, change, beaten in zip(ordered(run), changes(run), dominated_by(run), strict=True):
        accuracy = accuracy_on(step, target)
        answers = None if step is baseline else changed_answers(before, accuracy)
        values: dict[str, Any] = {
            "calibration_error": error_of(accuracy),
            **change,
            "answers_fixed": None if answers is None else len(answers.fixed),
            "answers_broken": None if answers is None else len(answers.broken),
            "answers_otherwise_wrong": None if answers is None else len(answers.other),
            "dominated_by": None if beaten is None else list(beaten),
        }
        made.append({key: plain(value) for key, value in values.items()})
    return made
