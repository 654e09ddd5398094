"""Runs side by side: what each deploys, whether the rows may be compared, and what the data can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from compress.errors import UsageError
from compress.records import RunRecord, StepRecord, TargetMeasurement
from compress.report import markdown
from compress.report.document import Cell, Row, Table, row
from compress.report.frame import rows
from compress.report.headline import failure_reason
from compress.report.numbers import (
    MISSING,
    count,
    p_value,
    percent,
    percent_range,
    significant,
    times,
    times_range,
)
from compress.report.paired import told
from compress.report.row import baseline_of, deployed_of, examples_of, first_target, measured_on, row_of
from compress.report.scores import reading


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    `frame` holds every row of every run, a column `run` first. `deployed` sets what the runs deploy next to each
    other, a column a run. `warnings` say what of it may not be compared.
    """

    frame: pd.DataFrame
    deployed: Table
    warnings: tuple[str, ...]

    def table(self) -> RichTable:
        """The table for a terminal."""
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

    def markdown(self) -> str:
        """The warnings and the table as Markdown."""
        blocks = [f"**Warning:** {markdown.escape(warning)}" for warning in self.warnings]
        return "\n\n".join([*blocks, markdown.table(self.deployed)]) + "\n"


def comparison_table(runs: Sequence[RunRecord], *, anyway: bool = False) -> RenderableType:
    """`compare` for a terminal: the warnings, then the table."""
    found = compare(runs, anyway=anyway)
    return Group(*(Text(f"warning: {warning}", style="yellow") for warning in found.warnings), found.table())


def compare(runs: Sequence[RunRecord], *, anyway: bool = False) -> Comparison:
    """Set runs side by side.

    Args:
        runs: two runs or more.
        anyway: compare runs of different targets or test splits, with a warning for each difference.

    Raises:
        UsageError: fewer than two runs, or runs whose rows are not comparable and `anyway` is not set.
    """
    if len(runs) < 2:
        raise UsageError("comparing needs two runs or more")
    found = differences(runs)
    if found and not anyway:
        raise UsageError(
            "these runs are not comparable: " + "; ".join(found), hint="compare them anyway with --anyway"
        )
    names = _names(runs)
    frames = []
    for name, run in zip(names, runs, strict=True):
        frame = rows(run)
        frame.insert(0, "run", name)
        frames.append(frame)
    return Comparison(pd.concat(frames, ignore_index=True), _deployed_table(runs, names), found)


def differences(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """Why rows of these runs may not be compared: one sentence a difference, none where they may."""
    first, *others = runs
    name, *names = _names(runs)
    found = []
    for other_name, other in zip(names, others, strict=True):
        if first.task != other.task or first.metric != other.metric:
            found.append(
                f"{name} is scored by {first.task} {first.metric}, {other_name} by {other.task} {other.metric}"
            )
        one, two = _measured(first), _measured(other)
        if one is None or two is None:
            continue
        if one.fingerprint != two.fingerprint:
            found.append(f"{name} was measured on {_place(one)}, {other_name} on {_place(two)}")
        elif one.protocol != two.protocol:
            found.append(
                f"{name} was measured by protocol {one.protocol}, {other_name} by protocol {two.protocol}"
            )
        if _scored(first, one) != _scored(other, two):
            found.append(
                f"{name} and {other_name} were scored on different test splits "
                f"({examples_of(one.accuracy)} and {examples_of(two.accuracy)} examples)"
            )
        elif "baseline" in (one.accuracy.against, two.accuracy.against) and not _same_baseline(first, other):
            found.append(f"{name} and {other_name} were scored against different teachers' similarities")
    return tuple(found)


def _deployed_table(runs: Sequence[RunRecord], names: Sequence[str]) -> Table:
    values = [_values(run, deployed_of(run)) for run in runs]
    baselines = [_values(run, baseline_of(run)) for run in runs]

    def line(
        title: str, cell: Callable[[dict[str, Any]], Cell], of: Sequence[dict[str, Any] | None] = values
    ) -> Row:
        return row(title, *(Cell(MISSING) if value is None else cell(value) for value in of))

    lines = (
        row("status", *(run.status for run in runs)),
        row("deploys", *(_deployed_words(run) for run in runs)),
        line("score", _score_cell),
        row("score against the first", *(_against_first(runs[0], run) for run in runs)),
        line(
            "retention",
            lambda v: Cell(percent(v["retention"]), percent_range(v["retention_low"], v["retention_high"])),
        ),
        line("p50 ms", lambda v: Cell(significant(v["latency_p50_ms"]))),
        line("p95 ms", lambda v: Cell(significant(v["latency_p95_ms"]))),
        line(
            "speed-up", lambda v: Cell(times(v["speedup"]), times_range(v["speedup_low"], v["speedup_high"]))
        ),
        line("examples/s", lambda v: Cell(significant(v["throughput"]))),
        line("peak MB", lambda v: Cell(significant(v["peak_memory_mb"]))),
        line("size MB", lambda v: Cell(significant(v["size_mb"]))),
        line("parameters", lambda v: Cell(count(v["parameters"]))),
        line("MACs", lambda v: Cell(count(v["macs"]))),
        line("baseline score", lambda v: Cell(reading(v["metric"]).value(v["score"])), baselines),
        line("baseline p50 ms", lambda v: Cell(significant(v["latency_p50_ms"])), baselines),
    )
    targets = ", ".join(dict.fromkeys(first_target(run) or MISSING for run in runs))
    return Table(
        f"What the runs deploy, on {targets}; each speed-up is over the baseline of its own run",
        ("", *names),
        lines,
    )


def _against_first(first: RunRecord, run: RunRecord) -> Cell:
    if run is first:
        return Cell(MISSING)
    one, two = _measured(first), _measured(run)
    if one is None or two is None or first.labels != run.labels:
        return Cell(MISSING)
    if one.accuracy.against == "baseline" and not _same_baseline(first, run):
        return Cell(MISSING)
    found = told(one.accuracy, two.accuracy)
    return Cell(MISSING) if found is None else Cell(found.verdict, p_value(found.p_value))


def _score_cell(values: dict[str, Any]) -> Cell:
    read = reading(values["metric"])
    return Cell(read.value(values["score"]), read.range(values["score_low"], values["score_high"]))


def _same_baseline(one: RunRecord, two: RunRecord) -> bool:
    baselines = [baseline_of(run) for run in (one, two)]
    return len({baseline.key for baseline in baselines if baseline is not None}) == 1


def _measured(run: RunRecord) -> TargetMeasurement | None:
    """What was measured of the deployed model, or of the baseline where nothing is deployed."""
    return measured_on(deployed_of(run), first_target(run)) or measured_on(
        baseline_of(run), first_target(run)
    )


def _values(run: RunRecord, step: StepRecord | None) -> dict[str, Any] | None:
    if step is None:
        return None
    return row_of(step, baseline_of(run), first_target(run)) | {"metric": run.metric}


def _deployed_words(run: RunRecord) -> str:
    deployed = deployed_of(run)
    return deployed.step if deployed is not None else failure_reason(run) or MISSING


def _scored(run: RunRecord, found: TargetMeasurement) -> str | list[str | int]:
    """What tells one test split from another: the digest of its examples, or its labels by name."""
    if found.accuracy.examples is not None:
        return found.accuracy.examples
    labels = run.labels
    return [labels[index] if 0 <= index < len(labels) else index for index in found.accuracy.truth]


def _place(found: TargetMeasurement) -> str:
    return f"{found.target} ({found.fingerprint[:12]})"


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """The ids of the runs; a run that stands twice gets a number."""
    names: list[str] = []
    for run in runs:
        twice = sum(name == run.run or name.startswith(f"{run.run} (") for name in names)
        names.append(f"{run.run} ({twice + 1})" if twice else run.run)
    return names
