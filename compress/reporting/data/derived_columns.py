"""Columns of a row derived from other rows of its run: changes, changed predictions, Pareto dominance."""

from __future__ import annotations

from typing import Any

from compress.core.records import RunRecord
from compress.reporting.data.pareto import dominated_by
from compress.reporting.data.row import accuracy_on, baseline_of, finite, first_target, ordered_steps
from compress.reporting.sections.answers import changed_answers
from compress.reporting.sections.attribution import changes
from compress.reporting.sections.calibration import error_of


def derived_columns(run: RunRecord) -> list[dict[str, Any]]:
    """Return, for each step in report order, its calibration error, its changes and what dominates it; None if unknown.

    `answers_*` count test examples whose prediction differs from the baseline's. `dominated_by` lists the steps on the
    Pareto front that dominate the step; it is empty for a step on the front.
    """
    baseline, target = baseline_of(run), first_target(run)
    baseline_accuracy = accuracy_on(baseline, target)
    derived = []
    for step, change, dominating in zip(ordered_steps(run), changes(run), dominated_by(run), strict=True):
        accuracy = accuracy_on(step, target)
        changed = None if step is baseline else changed_answers(baseline_accuracy, accuracy)
        values: dict[str, Any] = {
            "calibration_error": error_of(accuracy),
            **change,
            "answers_fixed": None if changed is None else len(changed.fixed),
            "answers_broken": None if changed is None else len(changed.broken),
            "answers_otherwise_wrong": None if changed is None else len(changed.other),
            "dominated_by": None if dominating is None else list(dominating),
        }
        derived.append({key: finite(value) for key, value in values.items()})
    return derived
