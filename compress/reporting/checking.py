"""Regression check of a run against an earlier report, for continuous integration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from compress.core.errors import UsageError
from compress.core.task_kind import Quantity
from compress.reporting.data.paired import reported_test, same_split, split_difference
from compress.reporting.data.report_reader import (
    Report,
    deployed_row,
    matching_timing,
    memory_words,
    same_baseline,
    same_machine,
    same_memory_lengths,
    same_memory_setting,
    timed_words,
    timing_words,
)
from compress.reporting.render.numbers import known, p_value, signed, significant, times
from compress.tasks.table import TASKS, metric_kind, quantities_of, task_kind

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tolerances:
    """Accepted regressions.

    `score` is a loss in the units of `MetricKind.degradation` (0.005: half a point, or half a percent of a perplexity);
    the others are relative increases (0.10: 10 % more than before).
    """

    score: float = 0.005
    latency: float = 0.10
    size: float = 0.01
    memory: float = 0.15


@dataclass(frozen=True)
class Judgement:
    """Verdict on one quantity of one row on one target.

    Attributes:
        by: what was compared.
        change: relative change, positive for an increase; for scores the loss or gain in the units of
            `MetricKind.degradation`.
        tolerance: largest accepted change; negative if a decrease is worse.
        worse: the change exceeds the tolerance.
        note: further information for the user.
        judged: False if one of the two numbers is unreliable; then `worse` is False too, and the check does not pass.
    """

    step: str
    target: str
    quantity: str
    by: str
    before: float
    after: float
    change: float
    tolerance: float
    worse: bool
    note: str = ""
    judged: bool = True


@dataclass(frozen=True)
class Check:
    """All verdicts of a check."""

    metric: str
    lines: tuple[Judgement, ...]

    @property
    def worse(self) -> tuple[Judgement, ...]:
        """Verdicts that exceed their tolerance."""
        return tuple(line for line in self.lines if line.worse)

    @property
    def unjudged(self) -> tuple[Judgement, ...]:
        """Quantities that could not be judged."""
        return tuple(line for line in self.lines if not line.judged)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `ok` is True if everything was judged and nothing is worse."""
        return {"ok": not (self.worse or self.unjudged), "rows": [asdict(line) for line in self.lines]}

    def table(self) -> RichTable:
        """Return the table for the terminal."""
        rich_table = RichTable(box=None, pad_edge=False, header_style="bold")
        for number, title in enumerate(("step", "what", "before", "now", "change", "allowed", "")):
            rich_table.add_column(title, justify="right" if 2 <= number <= 5 else "left", overflow="fold")
        several = len({line.target for line in self.lines}) > 1
        for line in self.lines:
            step = f"{line.step} on {line.target}" if several else line.step
            before, after, change, allowed = _value_cells(line, self.metric)
            outcome = "WORSE" if line.worse else "ok" if line.judged else "not judged:"
            verdict = " ".join(part for part in (outcome, line.note) if part)
            style = "bold red" if line.worse else "" if line.judged else "yellow"
            rich_table.add_row(
                Text(step),
                Text(f"{line.quantity}: {line.by}"),
                before,
                after,
                change,
                allowed,
                Text(verdict),
                style=style,
            )
        return rich_table


def check(current: Report, previous: Report, tolerances: Tolerances, *, deployed_only: bool = False) -> Check:
    """Judge every pipeline row of an earlier report that was measured again, matched by name.

    Scores are compared directly; if both reports contain which examples were predicted correctly, the note gives the
    result of McNemar's test. Latencies, at the report's first batch size and its lengths, are medians if the machine is
    the same; otherwise they are speed-ups over the baseline, which was timed in alternation, so that they carry over
    between machines (the baseline's own row has none). Quantities that the task declares are judged in the same way, at
    their first batch size and length, unless they are not medians. Because the speed of a machine varies, the
    baseline's row is not judged if both reports have the same baseline, and a median counts as worse only if the
    speed-up is worse too. Timings disturbed by other processes are not judged, and if a baseline is no better than
    chance, only regressions are reported.

    Args:
        current: the report to check.
        previous: the earlier report.
        deployed_only: judge only the deployed models, whatever their rows are called.

    Raises:
        UsageError: a row or target is missing, the scores are of another metric or test split, or latency or memory of
            another batch size.
    """
    if (current["task"], current["metric"]) != (previous["task"], previous["metric"]):
        raise UsageError(
            f"{current['run']} is scored by {current['task']} {current['metric']}, "
            f"the report by {previous['task']} {previous['metric']}: they cannot be compared"
        )
    lines: list[Judgement] = []
    baseline = same_baseline(current, previous)
    for row, current_row in _rows(current, previous, deployed_only=deployed_only):
        for target in previous["targets"]:
            before, after = _measured_on(row, previous, target), _measured_on(current_row, current, target)
            if before is None:
                continue
            if after is None:
                raise UsageError(f"{current['run']}: row {row['step']!r} was not measured on {target}")
            if not same_split(before, after):
                raise UsageError(
                    f"row {row['step']!r} now and in the report was scored on "
                    f"{split_difference(current['metric'], after, before)}"
                )
            pair = _Pair(row["step"], row["role"], target, before, after, tolerances, baseline)
            lines += [*_score(pair), *_latencies(pair, current["task"])]
            if target == previous["targets"][0]:
                sizes = row["size_mb"], current_row["size_mb"]
                lines += _compare(pair, "size", "MB on disk", sizes, tolerances.size)
            lines += _memory(pair)
    chance_reports = [
        report_name
        for report_name, report in (("then", previous), ("now", current))
        if report.get("baseline_fault")
    ]
    if chance_reports:
        note = f"the baseline is no better than chance {' and '.join(chance_reports)}"
        lines = [line if line.worse else replace(line, judged=False, note=note) for line in lines]
    return Check(current["metric"], tuple(lines))


def _rows(
    current: Report, previous: Report, *, deployed_only: bool
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the matching rows (earlier, now)."""
    deployed_rows = _deployed(previous), _deployed(current)
    if deployed_only:
        return [deployed_rows]
    previous_rows = [row for row in previous["rows"] if row["role"] in ("baseline", "step")]
    current_by_step = {row["step"]: row for row in current["rows"]}
    missing = [row["step"] for row in previous_rows if row["step"] not in current_by_step]
    if missing:
        raise UsageError(
            f"{current['run']} has no row {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, current_by_step))}",
            hint="`--deployed` compares only the deployed models.",
        )
    return [(row, current_by_step[row["step"]]) for row in previous_rows]


def _deployed(report: Report) -> Mapping[str, Any]:
    row = deployed_row(report)
    if row is None:
        raise UsageError(f"{report['run']} deploys nothing: {report.get('reason') or report['status']}")
    return row


def _measured_on(row: Mapping[str, Any], report: Report, label: str) -> Mapping[str, Any] | None:
    """Return a row's measurement on a target; a report with a single target matches any label."""
    if len(report["targets"]) == 1:
        label = report["targets"][0]
    return next((measurement for measurement in row["targets"] if measurement["target"] == label), None)


@dataclass(frozen=True)
class _Pair:
    """The measurements of one row on one target, in the earlier report and now.

    `same_baseline`: both reports have the same baseline model.
    """

    step: str
    role: str
    target: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    tolerances: Tolerances
    same_baseline: bool


def _score(pair: _Pair) -> list[Judgement]:
    metric = pair.before["metrics"][0] if pair.before["metrics"] else {"name": "score"}
    kind = metric_kind(str(metric["name"]))
    # For a task that is not installed, only the report has the direction.
    kind = replace(kind, smaller_is_better=bool(metric.get("smaller_is_better")))
    worse_sign = 1 if kind.smaller_is_better else -1

    def change(before: float, after: float) -> float:
        return worse_sign * kind.degradation(kind.rank(before), kind.rank(after))

    scores, tolerance = (pair.before["score"], pair.after["score"]), pair.tolerances.score
    test = reported_test(pair.before, pair.after)
    note = "" if test is None else f"paired test: {test.verdict}"
    if test is not None and test.p_value is not None:
        note += f", {p_value(test.p_value)}"
    return [
        replace(line, worse=worse_sign * line.change > line.tolerance + _ROUNDING, note=note)
        for line in _compare(pair, "score", kind.name, scores, tolerance, change_of=change)
    ]


def _latencies(pair: _Pair, task: str) -> Iterator[Judgement]:
    """Judge the latencies of a row and the quantities that its task declares.

    Only the first timing (batch size and length) is judged unless the task judges all.
    """
    judged = slice(None if task in TASKS and task_kind(task).judges_all else 1)
    for old in pair.before["latency"][judged]:
        yield from _latency(pair, old)
    for quantity in quantities_of(task):
        # Timings from before the task declared this quantity lack it.
        timings = [old for old in pair.before["latency"] if quantity.name in old]
        for old in timings[judged] if quantity.statistic != "p95_ms" else ():
            yield from _latency(pair, old, quantity)


def _latency(pair: _Pair, old: Mapping[str, Any], quantity: Quantity | None = None) -> list[Judgement]:
    """Judge one timing of a row (`old` in the earlier report): its median, or a `quantity` derived from it."""
    if not pair.after["latency"]:
        return []
    is_baseline = pair.role == "baseline"
    is_same_machine = same_machine(pair.before, pair.after)
    if is_baseline and (pair.same_baseline or not is_same_machine):
        return []
    new = matching_timing(pair.after, old)
    if new is None:
        raise UsageError(
            f"row {pair.step!r} was timed at {timed_words(pair.after)}; "
            f"the report has it at {timed_words(pair.before)}",
            hint="Time it at the report's first batch size and lengths too: set the target's `batch_sizes` and "
            "`sequence_lengths`.",
        )
    name, key, unit = "latency", "latency_p50_ms", "p50 ms"
    if quantity is not None:
        name, key, unit = quantity.name, quantity.name, quantity.unit
    tolerance = pair.tolerances.latency
    speedups = old["speedup"], new["speedup"]
    by_speedup = []
    if not is_baseline:
        basis = "speed-up over the baseline, since the machines differ"
        by_speedup = _compare(
            pair, name, basis, speedups, tolerance, change_of=_time_increase, name_in_errors="speed-up"
        )
    judgements = by_speedup
    if is_same_machine:
        basis = unit if old is pair.before["latency"][0] else f"{unit}, {timing_words(old)}"
        more_is_worse = quantity is None or quantity.smaller_is_better
        judgements = _compare(
            pair, name, basis, (old[key], new.get(key)), tolerance, more_is_worse=more_is_worse
        )
    disturbed_reports = [
        report_name for report_name, timing in (("then", old), ("now", new)) if timing.get("disturbed")
    ]
    if disturbed_reports:
        note = f"other processes disturbed the timing {' and '.join(disturbed_reports)}"
        return [replace(line, worse=False, judged=False, note=note) for line in judgements]
    if (
        is_same_machine
        and pair.same_baseline
        and judgements
        and judgements[0].worse
        and by_speedup
        and not by_speedup[0].worse
    ):
        note = f"the machine is slower: speed-up {times(speedups[0])} before, {times(speedups[1])} now"
        return [replace(judgements[0], worse=False, note=note)]
    return judgements


def _memory(pair: _Pair) -> list[Judgement]:
    if not same_memory_setting(pair.before, pair.after):
        raise UsageError(
            f"the peak memory of row {pair.step!r} was measured at {memory_words(pair.after)} now, and at "
            f"{memory_words(pair.before)} in the report",
            hint="Memory is measured at the first of `batch_sizes` and, for some tasks, at the longest of "
            "`sequence_lengths`: set those of the report.",
        )
    if not same_memory_lengths(pair.before, pair.after):
        return []
    peaks = pair.before["peak_memory_mb"], pair.after["peak_memory_mb"]
    return _compare(pair, "memory", "peak MB", peaks, pair.tolerances.memory)


def _relative_increase(before: float, after: float) -> float:
    return after / before - 1 if before > 0 else 0.0


def _time_increase(before: float, after: float) -> float:
    """Return the relative increase in time that follows from two speed-ups."""
    return before / after - 1


def _compare(
    pair: _Pair,
    quantity: str,
    basis: str,
    values: tuple[float | None, float | None],
    tolerance: float,
    *,
    change_of: Callable[[float, float], float] = _relative_increase,
    name_in_errors: str | None = None,
    more_is_worse: bool = True,
) -> list[Judgement]:
    """Judge one quantity: worse if its change exceeds the tolerance; empty if the earlier report has no value.

    Args:
        values: before and now.
        name_in_errors: its name in errors; None: `quantity`.
        more_is_worse: False for a rate, which may decrease by the factor by which a time may increase.

    Raises:
        UsageError: the earlier report has a value, but the current one has none.
    """
    before, after = values
    if not known(before):
        return []
    if not known(after):
        raise UsageError(
            f"the {name_in_errors or quantity} of row {pair.step!r} was not measured; the report has it"
        )
    change = change_of(before, after)
    worse = change > tolerance + _ROUNDING
    if not more_is_worse:
        tolerance = 1 / (1 + tolerance) - 1
        worse = change < tolerance - _ROUNDING
    return [Judgement(pair.step, pair.target, quantity, basis, before, after, change, tolerance, worse)]


def _value_cells(line: Judgement, metric: str) -> Sequence[str]:
    if line.quantity == "score":
        kind = metric_kind(metric)
        decimals, factor = (2, 100) if kind.percent else (3, 1)
        values = [f"{factor * value:.{decimals}f}" for value in (line.before, line.after)]
        if kind.relative:
            decimals, factor = 2, 100
        unit, allowed = f" {kind.loss_unit}" if factor == 100 else "", kind.rank(-line.tolerance)
        return (
            *values,
            *(f"{signed(factor * fraction, decimals)}{unit}" for fraction in (line.change, allowed)),
        )
    values = [
        times(value) if line.by.startswith("speed-up") else significant(value)
        for value in (line.before, line.after)
    ]
    return (*values, f"{signed(100 * line.change, 1)} %", f"{signed(100 * line.tolerance, 1)} %")
