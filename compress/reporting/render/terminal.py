"""A run in the terminal: one line per step as it runs, then table and budget. Narrow terminals show fewer columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from compress.core.plugins import call_named
from compress.core.records import Limit, RunRecord, StepRecord
from compress.core.task_kind import MetricKind, Quantity
from compress.core.units import format_count, format_seconds
from compress.passes.table import PASSES
from compress.reporting.data.row import (
    baseline_of,
    deployed_of,
    first_target,
    measurement_on,
    metric_on,
    quantity_values,
    row_of,
    rows_of,
    secondary_metrics,
)
from compress.reporting.render.numbers import MISSING, percent, significant, times
from compress.reporting.render.scores import metric_format
from compress.reporting.sections.headline import chance_warning, limit_words, status_words, verdicts
from compress.tasks.table import quantities_of


@dataclass(frozen=True)
class _Column:
    """A column: its width in characters, and the minimum terminal width at which it is shown.

    `text` formats the row of a step, which includes the name of the run's metric as `metric`.
    """

    title: str
    width: int
    min_width: int
    text: Callable[[dict[str, Any]], str]


_STEP_WIDTH = 20
_TASK_COLUMNS_FROM = 56
"""Minimum width in characters that must remain for the standard columns beside those of a task."""
_MARK = "~"
"""Prefix of a latency disturbed by other processes."""
_COLUMNS = (
    _Column("score", 8, 0, lambda row: metric_format(row["metric"]).value(row["score"])),
    _Column("kept", 7, 56, lambda row: percent(row["retention"])),
    _Column(
        "p50 ms", 7, 0, lambda row: f"{_MARK * bool(row['disturbed'])}{significant(row['latency_p50_ms'])}"
    ),
    _Column("p95 ms", 7, 106, lambda row: significant(row["latency_p95_ms"])),
    # The baseline's median in the same rounds: divided by the row's median it is the speed-up in the next column.
    _Column("base ms", 7, 75, lambda row: significant(row["baseline_p50_ms"])),
    _Column("speed-up", 9, 75, lambda row: _speed(row)),
    _Column("size MB", 7, 0, lambda row: significant(row["size_mb"])),
    _Column("peak MB", 7, 84, lambda row: significant(row["peak_memory_mb"])),
    _Column(
        "params", 8, 97, lambda row: MISSING if row["parameters"] is None else format_count(row["parameters"])
    ),
    _Column("time", 11, 119, lambda row: format_seconds(row["seconds"])),
)


def _speed(row: dict[str, Any]) -> str:
    if row["disturbed"]:
        return "disturbed"
    return "1×" if row["role"] == "baseline" else times(row["speedup"])


@dataclass(frozen=True)
class RowLine:
    """A completed step as one line: its numbers on the first target so far, or its error.

    The columns fit the terminal's width; the baseline is preceded by the header.
    """

    run: RunRecord
    step: StepRecord

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.step.role == "baseline":
            yield _header(self.run, options.max_width)
        yield _line(self.run, self.step, options.max_width)


def _header(run: RunRecord, width: int) -> Text:
    columns = _visible_columns(run, width)
    titles = [
        run.metric if column.title == "score" and len(run.metric) <= column.width else column.title
        for column in columns
    ]
    cells = [title[: column.width].rjust(column.width) for title, column in zip(titles, columns, strict=True)]
    return Text("  ".join(["step".ljust(_step_width(columns, width)), *cells]), style="bold", no_wrap=True)


def _line(run: RunRecord, step: StepRecord, width: int) -> Text:
    columns = _visible_columns(run, width)
    name_width = _step_width(columns, width)
    name = step.step if len(step.step) <= name_width else step.step[: name_width - 1] + "…"
    if step.status == "failed":
        line = Text(name.ljust(name_width) + "  ", style="bold red")
        return line.append(
            f"failed: {step.error or 'no error was recorded'}".splitlines()[0], style="not bold red"
        )
    target = first_target(run)
    values = row_of(step, baseline_of(run) or step, target) | quantity_values(run, step, target)
    values |= _extra_values(run, step)
    cells = [column.text(values).rjust(column.width) for column in columns]
    line = Text(
        "  ".join([name.ljust(name_width), *cells]), no_wrap=True, style="dim" if _is_comparison(step) else ""
    )
    if step.status == "cached" and line.cell_len + 8 <= width:
        line.append("  cached", style="dim")
    return line


@dataclass(frozen=True)
class RunTable:
    """The table of a run, the baseline first, the deployed step last and in bold; the width determines the columns."""

    run: RunRecord

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._table(options.max_width))

    def _table(self, width: int) -> Table:
        run, columns = self.run, _visible_columns(self.run, width - 4)
        target, deployed = first_target(run), deployed_of(run)
        table = Table(
            title=Text(f"{run.profile} on {target}" if target else run.profile),
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        table.add_column("step", overflow="fold")
        for column in columns:
            title = run.metric if column.title == "score" else column.title
            table.add_column(Text(title), justify="right", no_wrap=True)
        for step, values in rows_of(run, target):
            style = "bold green" if step is deployed else "dim" if _is_comparison(step) else ""
            if step.status == "failed":
                table.add_row(
                    Text(step.step),
                    *[Text("failed" if n == 0 else "") for n in range(len(columns))],
                    style="red",
                )
                continue
            values |= _extra_values(run, step)
            table.add_row(Text(step.step), *[Text(column.text(values)) for column in columns], style=style)
        return table


def budget_lines(limits: Iterable[Limit], metric: str = "accuracy") -> list[Text]:
    """Return one line per limit: `met`, `MISSED` or `not judged`, the limit and the value; `metric`: of the task."""
    words = {
        True: ("met     ", "green"),
        False: ("MISSED  ", "bold red"),
        None: ("not judged  ", "bold yellow"),
    }
    return [Text.assemble(words[limit.held], limit_words(limit, metric)) for limit in limits]


def summary_lines(run: RunRecord) -> list[Text]:
    """Return the lines below the table: a useless baseline, status, limits, verdicts, lines of passes, the bundle."""
    words, tone = status_words(run)
    first = chance_warning(run)
    lines = [Text(text, style="bold red") for text in first]
    lines.append(Text(words, style="bold green" if tone == "good" else "bold red"))
    lines += budget_lines(run.limits, run.metric)
    lines += [
        Text(verdict)
        for verdict in verdicts(run)
        if verdict not in first and not verdict.startswith(("Missed: ", "Not judged: ", "Every limit "))
    ]
    lines += [Text(line) for kind in PASSES.values() if kind.lines for line in call_named(kind.lines, run)]
    if run.bundle is not None:
        lines.append(Text(f"bundle  {run.bundle}"))
    return lines


def _visible_columns(run: RunRecord, width: int) -> list[_Column]:
    """Return the columns that fit into the width.

    Columns of the task take precedence over those that only wide terminals show: secondary scores before the latency,
    quantities after it.
    """
    scores = [_score_column(metric) for metric in secondary_metrics(run)]
    task_columns = [_quantity_column(quantity) for quantity in quantities_of(run.task) if quantity.column]
    while (
        remaining := width - sum(column.width + 2 for column in (*scores, *task_columns))
    ) < _TASK_COLUMNS_FROM and task_columns:
        task_columns.pop()
    if remaining < _TASK_COLUMNS_FROM:
        scores, remaining = [], width
    columns = [column for column in _COLUMNS if remaining >= column.min_width]
    latency_index = next(
        latency_index for latency_index, column in enumerate(columns) if column.title == "p50 ms"
    )
    return [
        *columns[:latency_index],
        *scores,
        columns[latency_index],
        *task_columns,
        *columns[latency_index + 1 :],
    ]


def _extra_values(run: RunRecord, step: StepRecord) -> dict[str, Any]:
    """Return what columns need beside a row: the metric's name, secondary scores, names of disturbed quantities."""
    target = first_target(run)
    measurement = measurement_on(step, target)
    timings_by_name = [
        (quantity.name, quantity.matching(measurement.latency)[:1])
        for quantity in quantities_of(run.task)
        if measurement
    ]
    return {
        "metric": run.metric,
        "further": {metric.name: metric_on(step, target, metric.name) for metric in secondary_metrics(run)},
        "marked": {name for name, timings in timings_by_name if any(metric.disturbed for metric in timings)},
    }


def _score_column(metric: MetricKind) -> _Column:
    def text(row: dict[str, Any]) -> str:
        found = row["further"][metric.name]
        return metric_format(metric.name).value(found and found.value)

    return _Column(metric.column, 8, 0, text)


def _quantity_column(quantity: Quantity) -> _Column:
    title, name = quantity.column, quantity.name
    return _Column(
        title, max(8, len(title)), 0, lambda row: f"{_MARK * (name in row['marked'])}{significant(row[name])}"
    )


def _step_width(columns: Sequence[_Column], width: int) -> int:
    """Return the width that remains for the step's name, within limits."""
    return max(8, min(_STEP_WIDTH, width - sum(column.width + 2 for column in columns)))


def _is_comparison(step: StepRecord) -> bool:
    """Whether the row is for comparison only."""
    return step.role in ("control", "variant")
