"""Regression check of a run against an earlier report, for continuous integration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from compress.core.errors import UsageError
from compress.core.task_kind import Quantity
from compress.reporting.data.paired import other_split, reported_test, same_split
from compress.reporting.data.report_reader import (
    Report,
    deployed_row,
    memory_words,
    same_baseline,
    same_machine,
    same_memory_batch,
    same_memory_lengths,
    timed_words,
    timing_like,
    timing_words,
)
from compress.reporting.render.numbers import known, p_value, signed, significant, times
from compress.tasks.table import TASKS, metric_kind, quantities_of, task_kind

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tolerances:
    """Accepted regressions.

    `score` is a loss in the units of `MetricKind.lost` (0.005: half a point, or half a percent of a perplexity); the
    others are relative increases (0.10: 10 % more than before).
    """

    score: float = 0.005
    latency: float = 0.10
    size: float = 0.01
    memory: float = 0.15


@dataclass(frozen=True)
class Judged:
    """Verdict on one quantity of one row on one target.

    Attributes:
        by: what was compared.
        change: relative change, positive for an increase; for scores the loss or gain in the units of
            `MetricKind.lost`.
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
    lines: tuple[Judged, ...]

    @property
    def worse(self) -> tuple[Judged, ...]:
        """Verdicts that exceed their tolerance."""
        return tuple(line for line in self.lines if line.worse)

    @property
    def unjudged(self) -> tuple[Judged, ...]:
        """Quantities that could not be judged."""
        return tuple(line for line in self.lines if not line.judged)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `ok` is True if everything was judged and nothing is worse."""
        return {"ok": not (self.worse or self.unjudged), "rows": [asdict(line) for line in self.lines]}

    def table(self) -> RichTable:
        """Return the table for the terminal."""
        made = RichTable(box=None, pad_edge=False, header_style="bold")
        for number, title in enumerate(("step", "what", "before", "now", "change", "allowed", "")):
            made.add_column(title, justify="right" if 2 <= number <= 5 else "left", overflow="fold")
        several = len({line.target for line in self.lines}) > 1
        for line in self.lines:
            step = f"{line.step} on {line.target}" if several else line.step
            before, after, change, may = _words(line, self.metric)
            said = "WORSE" if line.worse else "ok" if line.judged else "not judged:"
            verdict = " ".join(part for part in (said, line.note) if part)
            style = "bold red" if line.worse else "" if line.judged else "yellow"
            made.add_row(
                Text(step),
                Text(f"{line.quantity}: {line.by}"),
                before,
                after,
                change,
                may,
                Text(verdict),
                style=style,
            )
        return made


def check(now: Report, then: Report, tolerances: Tolerances, *, deployed_only: bool = False) -> Check:
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
        now: the report to check.
        then: the earlier report.
        deployed_only: judge only the deployed models, whatever their rows are called.

    Raises:
        UsageError: a row or target is missing, the scores are of another metric or test split, or latency or memory of
            another batch size.
    """
    if (now["task"], now["metric"]) != (then["task"], then["metric"]):
        raise UsageError(
            f"{now['run']} is scored by {now['task']} {now['metric']}, "
            f"the report by {then['task']} {then['metric']}: they cannot be compared"
        )
    lines: list[Judged] = []
    baseline = same_baseline(now, then)
    judged = slice(None if now["task"] in TASKS and task_kind(now["task"]).judges_all else 1)
    for before, after in _pairs(now, then, deployed_only=deployed_only):
        for number, target in enumerate(then["targets"]):
            one, two = _target(before, then, target), _target(after, now, target)
            if one is None:
                continue
            if two is None:
                raise UsageError(f"{now['run']}: row {after['step']!r} was not measured on {target}")
            if not same_split(one, two):
                raise UsageError(
                    f"row {after['step']!r} now and in the report was scored on "
                    f"{other_split(now['metric'], two, one)}"
                )
            lines += _score(before, one, two, target, tolerances)
            for old in one["latency"][judged]:
                lines += _latency(before, one, two, old, target, tolerances, baseline)
            for quantity in quantities_of(now["task"]):
                # Timings from before the task declared this quantity lack it.
                timed = [old for old in one["latency"] if quantity.name in old]
                for old in timed[judged] if quantity.statistic != "p95_ms" else ():
                    lines += _latency(before, one, two, old, target, tolerances, baseline, quantity)
            if number == 0:
                pair = before["size_mb"], after["size_mb"]
                lines += _judged(before, target, "size", "MB on disk", pair, tolerances.size)
            if not same_memory_batch(one, two):
                raise UsageError(
                    f"the peak memory of row {after['step']!r} was measured at {memory_words(two)} now, and at "
                    f"{memory_words(one)} in the report",
                    hint="Memory is measured at the first of `batch_sizes` and, for some tasks, at the longest of "
                    "`sequence_lengths`: set those of the report.",
                )
            if same_memory_lengths(one, two):
                pair = one["peak_memory_mb"], two["peak_memory_mb"]
                lines += _judged(before, target, "memory", "peak MB", pair, tolerances.memory)
    useless = [when for when, one in (("then", then), ("now", now)) if one.get("baseline_fault")]
    if useless:
        note = f"the baseline is no better than chance {' and '.join(useless)}"
        lines = [line if line.worse else replace(line, judged=False, note=note) for line in lines]
    return Check(now["metric"], tuple(lines))


def _pairs(
    now: Report, then: Report, *, deployed_only: bool
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the matching rows (earlier, now)."""
    ends = _deployed(then), _deployed(now)
    if deployed_only:
        return [ends]
    wanted = [row for row in then["rows"] if row["role"] in ("baseline", "step")]
    found = {row["step"]: row for row in now["rows"]}
    missing = [row["step"] for row in wanted if row["step"] not in found]
    if missing:
        raise UsageError(
            f"{now['run']} has no row {', '.join(map(repr, missing))}; it has {', '.join(map(repr, found))}",
            hint="`--deployed` compares only the deployed models.",
        )
    return [(row, found[row["step"]]) for row in wanted]


def _deployed(report: Report) -> Mapping[str, Any]:
    row = deployed_row(report)
    if row is None:
        raise UsageError(f"{report['run']} deploys nothing: {report.get('reason') or report['status']}")
    return row


def _target(row: Mapping[str, Any], report: Report, label: str) -> Mapping[str, Any] | None:
    """Return a row's measurement on a target; a report with a single target matches any label."""
    if len(report["targets"]) == 1:
        label = report["targets"][0]
    return next((found for found in row["targets"] if found["target"] == label), None)


def _score(
    row: Mapping[str, Any],
    one: Mapping[str, Any],
    two: Mapping[str, Any],
    target: str,
    tolerances: Tolerances,
) -> list[Judged]:
    metric = one["metrics"][0] if one["metrics"] else {"name": "score"}
    pair = one["score"], two["score"]
    kind = metric_kind(str(metric["name"]))
    # For a task that is not installed, only the report has the direction.
    kind = replace(kind, smaller_is_better=bool(metric.get("smaller_is_better")))
    worse_way = 1 if kind.smaller_is_better else -1

    def more(before: float, after: float) -> float:
        return worse_way * kind.lost(kind.rank(before), kind.rank(after))

    lines = _judged(row, target, "score", kind.name, pair, tolerances.score, change_of=more)
    found = reported_test(one, two)
    note = "" if found is None else f"paired test: {found.verdict}"
    if found is not None and found.p_value is not None:
        note += f", {p_value(found.p_value)}"
    return [
        replace(line, worse=worse_way * line.change > line.tolerance + _ROUNDING, note=note) for line in lines
    ]


def _latency(
    row: Mapping[str, Any],
    one: Mapping[str, Any],
    two: Mapping[str, Any],
    old: Mapping[str, Any],
    target: str,
    tolerances: Tolerances,
    baseline: bool,
    quantity: Quantity | None = None,
) -> list[Judged]:
    """Judge one timing of a row (`old` in the earlier report): its median, or a `quantity` derived from it.

    `baseline`: both reports have the same baseline.
    """
    if not two["latency"]:
        return []
    alone = row["role"] == "baseline"
    here = same_machine(one, two)
    if alone and (baseline or not here):
        return []
    new = timing_like(two, old)
    if new is None:
        raise UsageError(
            f"row {row['step']!r} was timed at {timed_words(two)}; the report has it at {timed_words(one)}",
            hint="Time it at the report's first batch size and lengths too: set the target's `batch_sizes` and "
            "`sequence_lengths`.",
        )
    name, key, unit = "latency", "latency_p50_ms", "p50 ms"
    if quantity is not None:
        name, key, unit = quantity.name, quantity.name, quantity.unit
    more_is_worse = quantity is None or quantity.smaller_is_better
    ratios = old["speedup"], new["speedup"]
    by = "speed-up over the baseline, since the machines differ"
    by_ratio = (
        []
        if alone
        else _judged(row, target, name, by, ratios, tolerances.latency, change_of=_slowed, called="speed-up")
    )
    pair = old[key], new.get(key)
    words = unit if old is one["latency"][0] else f"{unit}, {timing_words(old)}"
    found = by_ratio
    if here:
        found = _judged(row, target, name, words, pair, tolerances.latency, more_is_worse=more_is_worse)
    disturbed = [when for when, one in (("then", old), ("now", new)) if one.get("disturbed")]
    if disturbed:
        note = f"other processes disturbed the timing {' and '.join(disturbed)}"
        return [replace(line, worse=False, judged=False, note=note) for line in found]
    if here and baseline and found and found[0].worse and by_ratio and not by_ratio[0].worse:
        note = f"the machine is slower: speed-up {times(ratios[0])} before, {times(ratios[1])} now"
        return [replace(found[0], worse=False, note=note)]
    return found


def _share_more(before: float, after: float) -> float:
    return after / before - 1 if before > 0 else 0.0


def _slowed(before: float, after: float) -> float:
    """Return the relative increase in time that follows from two speed-ups."""
    return before / after - 1


def _judged(
    row: Mapping[str, Any],
    target: str,
    quantity: str,
    by: str,
    pair: tuple[float | None, float | None],
    tolerance: float,
    *,
    change_of: Callable[[float, float], float] = _share_more,
    called: str | None = None,
    more_is_worse: bool = True,
) -> list[Judged]:
    """Judge one quantity: worse if its change exceeds the tolerance; empty if the earlier report has no value.

    Args:
        called: its name in errors.
        more_is_worse: False for a rate, which may decrease by the factor by which a time may increase.

    Raises:
        UsageError: the earlier report has a value, but the current one has none.
    """
    before, after = pair
    if not known(before):
        return []
    if not known(after):
        raise UsageError(
            f"the {called or quantity} of row {row['step']!r} was not measured; the report has it"
        )
    change = change_of(before, after)
    worse = change > tolerance + _ROUNDING
    if not more_is_worse:
        tolerance = 1 / (1 + tolerance) - 1
        worse = change < tolerance - _ROUNDING
    return [Judged(row["step"], target, quantity, by, before, after, change, tolerance, worse)]


def _words(line: Judged, metric: str) -> Sequence[str]:
    if line.quantity == "score":
        kind = metric_kind(metric)
        decimals, factor = (2, 100) if kind.percent else (3, 1)
        values = [f"{factor * value:.{decimals}f}" for value in (line.before, line.after)]
        if kind.relative:
            decimals, factor = 2, 100
        unit, may = f" {kind.loss_unit}" if factor == 100 else "", kind.rank(-line.tolerance)
        return (*values, *(f"{signed(factor * share, decimals)}{unit}" for share in (line.change, may)))
    values = [
        times(value) if line.by.startswith("speed-up") else significant(value)
        for value in (line.before, line.after)
    ]
    return (*values, f"{signed(100 * line.change, 1)} %", f"{signed(100 * line.tolerance, 1)} %")
