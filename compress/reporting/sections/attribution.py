"""Attribution of the change from the baseline to the deployed model to the passes; the changes add up to the total."""

from __future__ import annotations

from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.reporting.data.row import first_target, rows_of, without_disturbed
from compress.reporting.render.document import Cell, Row, Table, row
from compress.reporting.render.numbers import MISSING, known, percent, significant
from compress.reporting.render.scores import metric_format

QUANTITIES = {"score": "score_change", "latency_p50_ms": "latency_p50_change_ms", "size_mb": "size_change_mb"}
"""Keys of a row, and of the change in each."""


def changes(run: RunRecord) -> list[dict[str, float | None]]:
    """Return, for each step in report order, the change of each quantity from the step before it.

    None for the baseline, for rows beside the pipeline, and for what was not measured; the next measured step then
    includes the change.
    """
    rows = _rows(run)
    changes_by_step: list[dict[str, float | None]] = [dict.fromkeys(QUANTITIES.values()) for _ in rows]
    for quantity, name in QUANTITIES.items():
        before: float | None = None
        for (step, values), change in zip(rows, changes_by_step, strict=True):
            value = values[quantity]
            if step.role not in ("baseline", "step") or not known(value):
                continue
            change[name] = None if before is None else value - before
            before = value
    return changes_by_step


def table(run: RunRecord) -> Table:
    """Return a table of the baseline, the change by each pass, and the deployed model.

    Each change has its share of the total, if both ends of that are known.
    """
    fmt = metric_format(run.metric)
    rows = [
        (step, values, change)
        for (step, values), change in zip(_rows(run), changes(run), strict=True)
        if step.role in ("baseline", "step") and step.status != "failed"
    ]
    columns = ("Step", fmt.change_label, "p50, ms", "size, MB")
    if len(rows) < 2:
        return Table("", columns, ())
    ends = [(rows[0][1][quantity], rows[-1][1][quantity]) for quantity in QUANTITIES]
    totals = {
        name: last - first if known(first) and known(last) else 0.0
        for name, (first, last) in zip(QUANTITIES.values(), ends, strict=True)
    }
    lines = [_total_row(rows[0][0].step, rows[0][1], run)]
    for step, _, change in rows[1:]:
        cells = [_change_cell(change[name], totals[name], name, run) for name in QUANTITIES.values()]
        lines.append(row(step.step, *cells))
    lines.append(_total_row("total", rows[-1][1], run, "deployed"))
    return Table(
        "From the baseline to the last step: the change by each pass, with its share of the total",
        columns,
        tuple(lines),
    )


def _total_row(title: str, values: dict[str, Any], run: RunRecord, kind: str = "baseline") -> Row:
    return row(
        title,
        metric_format(run.metric).value(values["score"]),
        significant(values["latency_p50_ms"]),
        significant(values["size_mb"]),
        kind=kind,
    )


def _change_cell(change: float | None, total: float, name: str, run: RunRecord) -> Cell:
    if not known(change):
        return Cell(MISSING)
    if name == "score_change":
        return Cell(metric_format(run.metric).change(change))
    if not change:
        return Cell("0")
    sign = "+" if change > 0 else "−"
    return Cell(
        f"{sign}{significant(abs(change))}", percent(change / total, 0).replace("-", "−") if total else ""
    )


def _rows(run: RunRecord) -> list[tuple[StepRecord, dict[str, Any]]]:
    return [(step, without_disturbed(values)) for step, values in rows_of(run, first_target(run))]
