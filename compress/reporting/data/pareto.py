"""Pareto front: the rows that no other row dominates in score, latency and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.core.records import RunRecord
from compress.reporting.data.row import deployed_of, first_target, rows_of, speed_interval, speed_of
from compress.reporting.render.document import BubblePlot, Cell, Figure, Point, Row, Section, Table, row
from compress.reporting.render.numbers import known, significant
from compress.reporting.render.scores import metric_format

Costs = tuple[float, ...]
"""Values of which smaller is better."""


def dominates(one: Costs, other: Costs) -> bool:
    """Whether `one` is no worse in any value and better in at least one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def dominators(points: Sequence[Costs | None]) -> list[tuple[int, ...]]:
    """Return, for each point, the indices of the points on the Pareto front that dominate it.

    The front consists of the points that nothing dominates. Every dominated point is dominated by a point of the front.
    Points without costs have no dominators.
    """
    front = [
        index
        for index, point in enumerate(points)
        if point is not None and not any(other is not None and dominates(other, point) for other in points)
    ]
    return [
        () if point is None else tuple(index for index in front if dominates(points[index] or (), point))
        for point in points
    ]


def dominated_by(run: RunRecord, target: str | None = None) -> list[tuple[str, ...] | None]:
    """Return, for each step in report order, the steps on the front that dominate it; None if a value is unknown.

    Args:
        target: where score and latency were measured; None: the first target.
    """
    measured_target = target or first_target(run)
    rows = rows_of(run, measured_target)
    costs = [_costs(run, values, speed_interval(run, step, measured_target)) for step, values in rows]
    return [
        None if cost is None else tuple(rows[index][0].step for index in dominating)
        for cost, dominating in zip(costs, dominators(costs), strict=True)
    ]


def front(run: RunRecord) -> Section:
    """Build the section of the Pareto front: a table and a bubble plot (area: size on disk) for each target."""
    parts = [
        target_parts for target in run.targets if (target_parts := _target_front(run, target)) is not None
    ]
    if not parts:
        return Section("front", "Pareto front")
    paragraphs = (
        f"A row is dominated if another row is no worse in score, {speed_of(run.task).display_name} and "
        "size, and better in "
        "at least one of them. The rows that are not dominated form the Pareto front; which of them to deploy is your "
        "choice. Measured values are compared as they are: the tables above say which differences are significant. "
        "Rows whose timing was disturbed are left out.",
    )
    tables, figures = zip(*parts, strict=True)
    return Section("front", "Pareto front", paragraphs, tables, figures)


def _target_front(run: RunRecord, target: str) -> tuple[Table, Figure] | None:
    """Return table and figure of one target; None if fewer than two rows were measured there."""
    fmt, deployed, speed = metric_format(run.metric), deployed_of(run), speed_of(run.task)
    lines: list[Row] = []
    points: list[Point] = []
    for (step, values), dominating in zip(rows_of(run, target), dominated_by(run, target), strict=True):
        speed_range = speed_interval(run, step, target)
        if dominating is None or speed_range is None:
            continue
        x, y = speed_range[0], fmt.factor * values["score"]
        verdict = (
            Cell(f"dominated by {', '.join(dominating)}", tone="quiet")
            if dominating
            else Cell("on the front", tone="good")
        )
        lines.append(
            row(
                step.step,
                fmt.value(values["score"]),
                significant(x),
                significant(values["size_mb"]),
                verdict,
                kind="deployed" if step is deployed else step.role,
            )
        )
        points.append(
            Point(
                f"{step.step} {significant(values['size_mb'])} MB",
                step.role,
                (x, x, x),
                (y, y, y),
                size=values["size_mb"],
                on_front=not dominating,
            )
        )
    if len(points) < 2:
        return None
    where = f" on {target}" if len(run.targets) > 1 else ""
    point_words = "; ".join(point.label + ("" if point.on_front else ", dominated") for point in points)
    figure = Figure(
        BubblePlot(f"{speed.display_name}, {speed.unit}", fmt.axis_label, tuple(points)),
        f"{fmt.title} against {speed.display_name}{where}; the area of a bubble is the size on disk. "
        "Filled: the Pareto "
        "front.",
        f"The Pareto front of {fmt.words}, {speed.display_name} and size{where}. {point_words}.",
    )
    columns = ("Step", fmt.words, speed.column or f"{speed.display_name}, {speed.unit}", "size MB", "verdict")
    return Table(f"Every step and variant{where}", columns, tuple(lines), frozenset({4})), figure


def _costs(run: RunRecord, values: dict[str, Any], speed: tuple[float, ...] | None) -> Costs | None:
    score, size = values["score"], values["size_mb"]
    if speed is None or not (known(score) and known(size)):
        return None
    criteria = (metric_format(run.metric), score), (speed_of(run.task), speed[0])
    return (*(value if criterion.smaller_is_better else -value for criterion, value in criteria), size)
