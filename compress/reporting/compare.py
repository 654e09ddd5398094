"""Compare runs side by side: their deployed models, whether rows are comparable, which differences are significant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from compress.core.errors import UsageError
from compress.reporting.data.paired import reported_test, same_split, split_difference
from compress.reporting.data.report_reader import (
    Report,
    Result,
    as_report,
    baseline_row,
    deployed_row,
    first_target_of,
    matching_timing,
    memory_words,
    same_baseline,
    same_machine,
    same_memory_lengths,
    same_memory_setting,
    timed_words,
)
from compress.reporting.render.document import Cell, Row, Table, row
from compress.reporting.render.numbers import (
    MISSING,
    count,
    p_value,
    percent,
    percent_range,
    significant,
    times,
    times_range,
)
from compress.reporting.render.scores import metric_format, throughput_title
from compress.tasks.table import quantities_of

_TIMING_KEYS = (
    "latency_p50_ms",
    "latency_p95_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "throughput",
    "disturbed",
)
"""Keys of a row that depend on batch size and lengths."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        deployed: table of the deployed models, one column per run.
        warnings: what in it is not comparable.
    """

    deployed: Table
    warnings: tuple[str, ...]

    def table(self) -> RichTable:
        """Return the table for the terminal."""
        rich_table = RichTable(title=Text(self.deployed.caption), title_justify="left", title_style="bold")
        for number, column in enumerate(self.deployed.columns):
            rich_table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for line in self.deployed.rows:
            cells = [
                Text.assemble(cell.text, (f"\n{cell.detail}" if cell.detail else "", "dim"))
                for cell in line.cells
            ]
            rich_table.add_row(*cells)
        return rich_table


def compare(runs: Sequence[Result], *, anyway: bool = False) -> Comparison:
    """Compare runs side by side.

    Args:
        runs: two or more run records, or contents of a `report.json`.
        anyway: compare runs of different targets or test splits, with a warning for each difference.

    Raises:
        UsageError: fewer than two runs, or runs whose rows are not comparable and `anyway` is not set.
    """
    if len(runs) < 2:
        raise UsageError("need two runs or more to compare")
    reasons = differences(runs)
    if reasons and not anyway:
        raise UsageError(
            "these runs are not comparable: " + "; ".join(reasons),
            hint="`--anyway` compares them regardless.",
        )
    reports = [as_report(run) for run in runs]
    return Comparison(_deployed_table(reports, _names(reports)), reasons)


def differences(runs: Sequence[Result]) -> tuple[str, ...]:
    """Return why rows of these runs are not comparable, one sentence per difference; empty if they are."""
    first, *others = (as_report(run) for run in runs)
    name, *names = _names([first, *others])
    reasons = []
    for other_name, other in zip(names, others, strict=True):
        if (first["task"], first["metric"]) != (other["task"], other["metric"]):
            reasons.append(
                f"{name} is scored by {first['task']} {first['metric']}, "
                f"{other_name} by {other['task']} {other['metric']}"
            )
        first_values, other_values = _deployed_measurement(first), _deployed_measurement(other)
        if first_values is None or other_values is None:
            continue
        if not same_machine(first_values, other_values):
            reasons.append(
                f"{name} was measured on {_target_words(first_values)}, {other_name} on {_target_words(other_values)}"
            )
        elif first_values["protocol"] != other_values["protocol"]:
            reasons.append(
                f"{name} was measured with protocol {first_values['protocol']}, {other_name} with protocol "
                f"{other_values['protocol']}"
            )
        if first_values["latency"] and other_values["latency"]:
            reasons += _setting_differences(name, first_values, other_name, other_values)
        if not same_split(first_values, other_values):
            reasons.append(
                f"{name} and {other_name} were scored on "
                f"{split_difference(first['metric'], first_values, other_values)}"
            )
        elif "baseline" in (first_values.get("against"), other_values.get("against")) and not same_baseline(
            first, other
        ):
            reasons.append(
                f"{name} and {other_name} were scored against the similarities of different teachers"
            )
    return tuple(reasons)


def _setting_differences(
    name: str, first: Mapping[str, Any], other_name: str, other: Mapping[str, Any]
) -> list[str]:
    """Return why latency or memory of two models belong to different batch sizes or lengths."""
    if matching_timing(other, first["latency"][0]) is None:
        return [f"{name} was timed at {timed_words(first)}, {other_name} at {timed_words(other)}"]
    if not same_memory_setting(first, other):
        return [
            f"the peak memory of {name} was measured at {memory_words(first)}, of {other_name} at {memory_words(other)}"
        ]
    return []


def _deployed_table(reports: Sequence[Report], names: Sequence[str]) -> Table:
    # The latencies in all columns are those at the first batch size and lengths of the first run.
    measured = _deployed_measurement(reports[0])
    timing = measured["latency"][0] if measured is not None and measured["latency"] else None
    values = [_values(report, deployed_row(report), timing) for report in reports]
    for report, row_values in zip(reports, values, strict=True):
        measurement = _deployed_measurement(report)
        if row_values and measured and measurement and not same_memory_lengths(measured, measurement):
            row_values["peak_memory_mb"] = None
    baselines = [_values(report, baseline_row(report), timing) for report in reports]

    def line(
        title: str, cell: Callable[[dict[str, Any]], Cell], of: Sequence[dict[str, Any] | None] = values
    ) -> Row:
        return row(title, *(Cell(MISSING) if value is None else cell(value) for value in of))

    lines = (
        row("status", *(str(report["status"]) for report in reports)),
        row("deploys", *(_deployed_words(report) for report in reports)),
        line("score", _score_cell),
        row("score vs. the first run", *(_significance_cell(reports[0], report) for report in reports)),
        line(
            "retention",
            lambda v: Cell(percent(v["retention"]), percent_range(v["retention_low"], v["retention_high"])),
        ),
        line(
            "p50 ms", lambda v: Cell(significant(v["latency_p50_ms"]), "disturbed" * bool(v.get("disturbed")))
        ),
        line("p95 ms", lambda v: Cell(significant(v["latency_p95_ms"]))),
        line(
            "speed-up",
            lambda v: (
                Cell(MISSING, "disturbed")
                if v.get("disturbed")
                else Cell(times(v["speedup"]), times_range(v["speedup_low"], v["speedup_high"]))
            ),
        ),
        line(throughput_title(reports[0]["task"]), lambda v: Cell(significant(v["throughput"]))),
        *(
            row(f"{quantity.display_name}, {quantity.unit}", *_quantity_cells(quantity.name, reports))
            for quantity in quantities_of(reports[0]["task"])
        ),
        line("peak MB", lambda v: Cell(significant(v["peak_memory_mb"]))),
        line("load ms", lambda v: Cell(significant(v.get("load_ms")))),
        line("size MB", lambda v: Cell(significant(v["size_mb"]))),
        line("parameters", lambda v: Cell(count(v["parameters"]))),
        line("MACs", lambda v: Cell(count(v["macs"]))),
        line("baseline score", lambda v: Cell(metric_format(v["metric"]).value(v["score"])), baselines),
        line("baseline p50 ms", lambda v: Cell(significant(v["latency_p50_ms"])), baselines),
    )
    targets = ", ".join(
        dict.fromkeys(report["targets"][0] if report["targets"] else MISSING for report in reports)
    )
    return Table(
        f"Deployed models, on {targets}; each speed-up is over the baseline of its own run",
        ("", *names),
        lines,
    )


def _quantity_cells(name: str, reports: Sequence[Report]) -> list[Cell]:
    """Return a quantity of the deployed models, at the setting at which the first model was first timed for it."""
    measurements = [first_target_of(report, deployed_row(report)) for report in reports]
    first_timing = next(
        (timing for timing in (measurements[0] or {"latency": ()})["latency"] if name in timing), None
    )
    cells = []
    for measurement in measurements:
        own_timing = (
            None
            if measurement is None or first_timing is None
            else matching_timing(measurement, first_timing)
        )
        cells.append(
            Cell(MISSING)
            if own_timing is None
            else Cell(significant(own_timing.get(name)), "disturbed" * bool(own_timing.get("disturbed")))
        )
    return cells


def _significance_cell(first: Report, report: Report) -> Cell:
    if report is first:
        return Cell(MISSING)
    first_values, other_values = _deployed_measurement(first), _deployed_measurement(report)
    if first_values is None or other_values is None:
        return Cell(MISSING)
    if first_values.get("against") == "baseline" and not same_baseline(first, report):
        return Cell(MISSING)
    test = reported_test(first_values, other_values)
    return Cell(MISSING) if test is None else Cell(test.verdict, p_value(test.p_value))


def _score_cell(values: dict[str, Any]) -> Cell:
    fmt = metric_format(values["metric"])
    return Cell(fmt.value(values["score"]), fmt.range(values["score_low"], values["score_high"]))


def _deployed_measurement(report: Report) -> Mapping[str, Any] | None:
    """Return the first-target measurement of the deployed model, or of the baseline if nothing is deployed."""
    return first_target_of(report, deployed_row(report)) or first_target_of(report, baseline_row(report))


def _values(
    report: Report, step_row: Mapping[str, Any] | None, timing: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return a row with the latencies at the batch size and lengths of `timing`; None for those not timed there."""
    if step_row is None:
        return None
    measured, values = first_target_of(report, step_row), {**step_row, "metric": report["metric"]}
    if measured is None or timing is None:
        return values
    timing_values = matching_timing(measured, timing) or {}
    return values | {key: timing_values.get(key) for key in _TIMING_KEYS}


def _deployed_words(report: Report) -> str:
    deployed = deployed_row(report)
    return str(deployed["step"]) if deployed is not None else report["reason"] or MISSING


def _target_words(found: Mapping[str, Any]) -> str:
    return f"{found['target']} ({(found.get('machine') or found['fingerprint'])[:12]})"


def _names(reports: Sequence[Report]) -> list[str]:
    """Return the ids of the runs; repeated ids get a number."""
    names: list[str] = []
    for report in reports:
        run = str(report["run"])
        occurrences = sum(name == run or name.startswith(f"{run} (") for name in names)
        names.append(f"{run} ({occurrences + 1})" if occurrences else run)
    return names
