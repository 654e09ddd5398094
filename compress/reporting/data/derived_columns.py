"""Columns of a row derived from other rows of its run: changes, changed predictions, Pareto dominance."""

from __future__ import annotations

from typing import Any

from compress.core.records import RunRecord
from compress.reporting.data.pareto import dominated_by
from compress.reporting.data.row import accuracy_on, baseline_of, first_target, ordered, plain
from compress.reporting.sections.answers import changed_answers
from compress.reporting.sections.attribution import changes
from compress.reporting.sections.calibration import error_of


def derived_columns(run: RunRecord) -> list[dict[str, Any]]:
    """Return, for each step in report order, its calibration error, its changes and what dominates it; None if unknown.

    `answers_*` count test examples whose prediction differs from the baseline's. `dominated_by` lists the steps on the
    Pareto front that dominate the step; it is empty for a step on the front.
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
