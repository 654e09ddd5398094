"""Compare runs side by side: their deployed models, whether rows are comparable, which differences are significant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from compress.core.errors import UsageError
from compress.reporting.data.paired import other_split, reported_test, same_split
from compress.reporting.data.report_reader import (
    Report,
    Result,
    as_report,
    baseline_row,
    deployed_row,
    first_target_of,
    memory_words,
    same_baseline,
    same_machine,
    same_memory_batch,
    same_memory_lengths,
    timed_words,
    timing_like,
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
from compress.reporting.render.scores import rate_words, reading
from compress.tasks.table import quantities_of

_OF_ONE_TIMING = (
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
        made = RichTable(title=Text(self.deployed.caption), title_justify="left", title_style="bold")
        for number, column in enumerate(self.deployed.columns):
            made.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for line in self.deployed.rows:
            cells = [
                Text.assemble(cell.text, (f"\n{cell.detail}" if cell.detail else "", "dim"))
                for cell in line.cells
            ]
            made.add_row(*cells)
        return made


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
    found = differences(runs)
    if found and not anyway:
        raise UsageError(
            "these runs are not comparable: " + "; ".join(found),
            hint="`--anyway` compares them regardless.",
        )
    reports = [as_report(run) for run in runs]
    return Comparison(_deployed_table(reports, _names(reports)), found)


def differences(runs: Sequence[Result]) -> tuple[str, ...]:
    """Return why rows of these runs are not comparable, one sentence per difference; empty if they are."""
    first, *others = (as_report(run) for run in runs)
    name, *names = _names([first, *others])
    found = []
    for other_name, other in zip(names, others, strict=True):
        if (first["task"], first["metric"]) != (other["task"], other["metric"]):
            found.append(
                f"{name} is scored by {first['task']} {first['metric']}, "
                f"{other_name} by {other['task']} {other['metric']}"
            )
        one, two = _measured(first), _measured(other)
        if one is None or two is None:
            continue
        if not same_machine(one, two):
            found.append(f"{name} was measured on {_place(one)}, {other_name} on {_place(two)}")
        elif one["protocol"] != two["protocol"]:
            found.append(
                f"{name} was measured with protocol {one['protocol']}, {other_name} with protocol {two['protocol']}"
            )
        if one["latency"] and two["latency"]:
            found += _other_setting(name, one, other_name, two)
        if not same_split(one, two):
            found.append(f"{name} and {other_name} were scored on {other_split(first['metric'], one, two)}")
        elif "baseline" in (one.get("against"), two.get("against")) and not same_baseline(first, other):
            found.append(
                f"{name} and {other_name} were scored against the similarities of different teachers"
            )
    return tuple(found)


def _other_setting(name: str, one: Mapping[str, Any], other_name: str, two: Mapping[str, Any]) -> list[str]:
    """Return why latency or memory of two models belong to different batch sizes or lengths."""
    if timing_like(two, one["latency"][0]) is None:
        return [f"{name} was timed at {timed_words(one)}, {other_name} at {timed_words(two)}"]
    if not same_memory_batch(one, two):
        return [
            f"the peak memory of {name} was measured at {memory_words(one)}, of {other_name} at {memory_words(two)}"
        ]
    return []


def _deployed_table(reports: Sequence[Report], names: Sequence[str]) -> Table:
    # The latencies in all columns are those at the first batch size and lengths of the first run.
    measured = _measured(reports[0])
    timing = measured["latency"][0] if measured is not None and measured["latency"] else None
    values = [_values(report, deployed_row(report), timing) for report in reports]
    for report, found in zip(reports, values, strict=True):
        own = _measured(report)
        if found and measured and own and not same_memory_lengths(measured, own):
            found["peak_memory_mb"] = None
    baselines = [_values(report, baseline_row(report), timing) for report in reports]

    def line(
        title: str, cell: Callable[[dict[str, Any]], Cell], of: Sequence[dict[str, Any] | None] = values
    ) -> Row:
        return row(title, *(Cell(MISSING) if value is None else cell(value) for value in of))

    lines = (
        row("status", *(str(report["status"]) for report in reports)),
        row("deploys", *(_deployed_words(report) for report in reports)),
        line("score", _score_cell),
        row("score vs. the first run", *(_against_first(reports[0], report) for report in reports)),
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
        line(rate_words(reports[0]["task"]), lambda v: Cell(significant(v["throughput"]))),
        *(
            row(f"{each.words}, {each.unit}", *_at_first(each.name, reports))
            for each in quantities_of(reports[0]["task"])
        ),
        line("peak MB", lambda v: Cell(significant(v["peak_memory_mb"]))),
        line("load ms", lambda v: Cell(significant(v.get("load_ms")))),
        line("size MB", lambda v: Cell(significant(v["size_mb"]))),
        line("parameters", lambda v: Cell(count(v["parameters"]))),
        line("MACs", lambda v: Cell(count(v["macs"]))),
        line("baseline score", lambda v: Cell(reading(v["metric"]).value(v["score"])), baselines),
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


def _at_first(name: str, reports: Sequence[Report]) -> list[Cell]:
    """Return a quantity of the deployed models, at the setting at which the first model was first timed for it."""
    found = [first_target_of(report, deployed_row(report)) for report in reports]
    timed = next((one for one in (found[0] or {"latency": ()})["latency"] if name in one), None)
    cells = []
    for each in found:
        own = None if each is None or timed is None else timing_like(each, timed)
        cells.append(
            Cell(MISSING)
            if own is None
            else Cell(significant(own.get(name)), "disturbed" * bool(own.get("disturbed")))
        )
    return cells


def _against_first(first: Report, report: Report) -> Cell:
    if report is first:
        return Cell(MISSING)
    one, two = _measured(first), _measured(report)
    if one is None or two is None:
        return Cell(MISSING)
    if one.get("against") == "baseline" and not same_baseline(first, report):
        return Cell(MISSING)
    found = reported_test(one, two)
    return Cell(MISSING) if found is None else Cell(found.verdict, p_value(found.p_value))


def _score_cell(values: dict[str, Any]) -> Cell:
    read = reading(values["metric"])
    return Cell(read.value(values["score"]), read.range(values["score_low"], values["score_high"]))


def _measured(report: Report) -> Mapping[str, Any] | None:
    """Return the first-target measurement of the deployed model, or of the baseline if nothing is deployed."""
    return first_target_of(report, deployed_row(report)) or first_target_of(report, baseline_row(report))


def _values(
    report: Report, found: Mapping[str, Any] | None, timing: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return a row with the latencies at the batch size and lengths of `timing`; None for those not timed there."""
    if found is None:
        return None
    measured, values = first_target_of(report, found), {**found, "metric": report["metric"]}
    if measured is None or timing is None:
        return values
    own = timing_like(measured, timing) or {}
    return values | {key: own.get(key) for key in _OF_ONE_TIMING}


def _deployed_words(report: Report) -> str:
    deployed = deployed_row(report)
    return str(deployed["step"]) if deployed is not None else report["reason"] or MISSING


def _place(found: Mapping[str, Any]) -> str:
    return f"{found['target']} ({(found.get('machine') or found['fingerprint'])[:12]})"


def _names(reports: Sequence[Report]) -> list[str]:
    """Return the ids of the runs; repeated ids get a number."""
    names: list[str] = []
    for report in reports:
        run = str(report["run"])
        twice = sum(name == run or name.startswith(f"{run} (") for name in names)
        names.append(f"{run} ({twice + 1})" if twice else run)
    return names
