"""The verdict on a run: how much smaller and faster the model is, its retention, and whether the budget was met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.core.records import COMPLETE_STATUSES, Limit, RunRecord, StepRecord, TargetMeasurement
from compress.measuring.chance import no_better_than_chance
from compress.reporting.data.row import (
    accuracy_on,
    baseline_of,
    deployed_of,
    failed_of,
    first_target,
    latency_on,
    ordered_steps,
    row_of,
)
from compress.reporting.render.document import Cell, Section, Table, Tile, Tone, row, section_of
from compress.reporting.render.numbers import (
    MISSING,
    known,
    p_value,
    percent,
    percent_range,
    significant,
    times,
    times_range,
)
from compress.reporting.render.scores import metric_format
from compress.reporting.sections.run_sections import length_words
from compress.tasks.table import quantity_kind

_MINIMUM_LIMITS = frozenset({"retention", "score", "speedup"})
_FRACTIONS = frozenset({"retention", "score"})
_UNITS = {
    "latency_p50_ms": " ms",
    "latency_p95_ms": " ms",
    "size_mb": " MB",
    "peak_memory_mb": " MB",
    "speedup": "×",
}


def status_words(run: RunRecord) -> tuple[str, Tone]:
    """Return the status in words, and its tone."""
    if run.status == "ok" and chance_warning(run):
        return "Complete, but the baseline is no better than chance", "bad"
    if run.status == "ok":
        return ("Budget met" if run.limits else "Complete"), "good"
    words = {
        "budget_missed": "Budget missed",
        "not_judged": "Budget not judged",
        "failed": "Failed",
        "interrupted": "Interrupted",
        "running": "Not finished",
    }
    return words[run.status], "bad"


def failure_reason(run: RunRecord) -> str | None:
    """Return why a run has no deployable model; None if it has one."""
    if run.status in COMPLETE_STATUSES:
        return None
    step = failed_of(run)
    if run.status == "failed":
        if step is not None:
            return f"step {step.step!r} failed: {step.error or run.error or 'no error was recorded'}"
        return run.error or "the run failed; no error was recorded"
    if run.status == "interrupted":
        return run.error or "the run was interrupted; run the same command to resume from its last checkpoint"
    return "the run is not finished: it is still running, or it was killed; run the same command to resume it"


def verdicts(run: RunRecord) -> tuple[str, ...]:
    """Return the outcome in a few sentences."""
    reason = failure_reason(run)
    chance_lines = chance_warning(run)
    if reason is not None:
        return (*chance_lines, reason[0].upper() + reason[1:], *_completed_words(run))
    baseline, deployed = baseline_of(run), deployed_of(run)
    lines = [*chance_lines]
    if run.limits:
        missed = [limit for limit in run.limits if limit.held is False]
        unjudged = [limit for limit in run.limits if limit.held is None]
        lines += [f"Missed: {limit_words(limit, run.metric)}." for limit in missed]
        lines += [f"Not judged: {limit_words(limit, run.metric)}." for limit in unjudged]
        if not (missed or unjudged):
            lines.append(f"Every limit of the budget was met ({len(run.limits)} of {len(run.limits)}).")
    else:
        lines.append("The profile sets no budget.")
    if baseline is not None and deployed is not None and deployed is not baseline:
        lines += _significance_words(run, baseline, deployed)
    lines += disturbed_words(run)
    lines += [
        f"{step.step!r} does not fit {measurement.target}: its peak memory is "
        f"{significant(measurement.memory.absolute_peak_mb)} "
        f"MB, the limit is {measurement.memory.limit_mb:g} MB. It was measured without the limit."
        for step in ordered_steps(run)
        for measurement in step.measurements
        if measurement.memory.over_limit
    ]
    lines += [
        f"{step.step!r}, a row for comparison only, failed: {step.error or 'no error was recorded'}"
        for step in run.steps
        if step.role == "variant" and step.status == "failed"
    ]
    return tuple(lines)


def chance_warning(run: RunRecord) -> tuple[str, ...]:
    """Return a warning if the baseline is no better than chance; else empty."""
    chance_fault = no_better_than_chance(baseline_of(run), run.labels)
    if chance_fault is None:
        return ()
    hint = " `teacher.finetune: {class_weights: balanced}`, more epochs or another learning rate may help."
    return (f"{chance_fault}. Retention relative to it is meaningless." + (hint if run.labels else ""),)


def limit_words(limit: Limit, metric: str = "accuracy") -> str:
    """Describe a judged limit as a phrase: `quantize: size_mb 7.2 MB, the limit is at most 6 MB`."""
    bound = "at least" if is_minimum(limit.name, metric) else "at most"
    value = "withheld" if limit.value is None else limit_value(limit, limit.value, metric)
    words = (
        f"{limit.step}: {limit.name} {value}, the limit is {bound} {limit_value(limit, limit.limit, metric)}"
    )
    return words if limit.reason is None else f"{words}: {limit.reason}"


def is_minimum(name: str, metric: str) -> bool:
    """Whether a limit of the budget is a minimum."""
    quantity = quantity_kind(name)
    if quantity is not None:
        return not quantity.smaller_is_better
    return name in _MINIMUM_LIMITS and not (name == "score" and metric_format(metric).smaller_is_better)


def disturbed_words(run: RunRecord) -> list[str]:
    """Return sentences on rows that other processes disturbed, and what to do about it; empty if there are none."""
    disturbed_rows = [
        f"{step.step!r}"
        + ("" if len(run.targets) == 1 else f" on {measurement.target}")
        + _disturbed_settings(measurement)
        for step in ordered_steps(run)
        for measurement in step.measurements
        if measurement.disturbed
    ]
    lines = []
    if disturbed_rows:
        lines.append(
            "Other processes disturbed the timing, so no speed is claimed for: "
            f"{', '.join(disturbed_rows)}. Run the same "
            "command to time them again; `measure.patience_s` sets how long it waits for a quiet machine."
        )
    chosen = [step.step for step in run.steps if _chose_while_disturbed(step.facts)]
    if chosen:
        lines.append(
            f"Other processes disturbed the timings by which {', '.join(map(repr, chosen))} chose: on a quiet machine "
            "the choice may differ."
        )
    return lines


def _disturbed_settings(measurement: TargetMeasurement) -> str:
    """At which batch sizes and lengths a timing was disturbed, where not all were."""
    disturbed = [latency for latency in measurement.latency if latency.disturbed]
    if len(disturbed) == len(measurement.latency):
        return ""
    words = (
        f"batch {latency.batch_size}"
        + ("" if latency.lengths == "real" else f", {length_words(latency.lengths)}")
        for latency in disturbed
    )
    return f" ({'; '.join(words)})"


def _chose_while_disturbed(facts: Mapping[str, Any]) -> bool:
    """Whether a pass based a choice on a disturbed timing; probes choose nothing."""
    part_facts = (facts.get(part) for part in ("target", "mixed"))
    return any(
        isinstance(part, dict) and part.get("timing_disturbed") is True for part in (facts, *part_facts)
    )


def limit_value(limit: Limit, value: float, metric: str = "accuracy") -> str:
    """Format a value or bound of a limit with its unit, with enough digits to distinguish the two."""
    measured = limit.limit if limit.value is None else limit.value
    for digits in range(3, 10):
        texts = [_with_unit(limit.name, number, digits, metric) for number in (measured, limit.limit)]
        if texts[0] != texts[1] or measured == limit.limit:
            break
    return _with_unit(limit.name, value, digits, metric)


def budget(run: RunRecord) -> Section:
    """Build the section of all judged limits."""
    table = Table(
        "Limits of the budget, judged on the first target",
        ("Limit", "after step", "required", "measured", "verdict"),
        tuple(
            row(
                limit.name,
                limit.step,
                f"{'≥' if is_minimum(limit.name, run.metric) else '≤'} {limit_value(limit, limit.limit, run.metric)}",
                MISSING if limit.value is None else limit_value(limit, limit.value, run.metric),
                _judgement(limit),
                kind="failed" if limit.held is False else "",
            )
            for limit in run.limits
        ),
        frozenset({1, 4}),
    )
    return section_of("budget", "Budget", table)


def _judgement(limit: Limit) -> Cell:
    if limit.held is None:
        return Cell("not judged", limit.reason or "", "bad")
    return Cell("met", tone="good") if limit.held else Cell("missed", tone="bad")


def tiles(run: RunRecord) -> tuple[Tile, ...]:
    """Return the headline numbers of the deployed model relative to the baseline."""
    baseline, deployed = baseline_of(run), deployed_of(run)
    if baseline is None or deployed is None or deployed is baseline:
        return ()
    target = first_target(run)
    before, after = (row_of(step, baseline, target) for step in (baseline, deployed))
    found = []
    if chance_lines := chance_warning(run):
        found.append(Tile("useless", "baseline", chance_lines[0], "bad"))
    if known(before["size_mb"]) and known(after["size_mb"]):
        detail = f"{significant(after['size_mb'])} MB instead of {significant(before['size_mb'])} MB on disk"
        found.append(
            _ratio_tile(before["size_mb"] / after["size_mb"], ("smaller", "larger", "same size"), detail)
        )
    latency = latency_on(deployed, target)
    if latency is not None and latency.disturbed:
        detail = "other processes kept the cores busy while it was timed"
        found.append(Tile("unknown", "speed", detail, "bad"))
    elif latency is not None and known(latency.speedup):
        detail = (
            f"{significant(latency.p50_ms)} ms instead of {significant(latency.baseline_p50_ms)} ms (median, "
            f"batch {latency.batch_size}); 95 % interval {times_range(latency.speedup_low, latency.speedup_high)}"
        )
        if latency.verdict == "no difference":
            found.append(Tile("no difference", "in speed", detail, "quiet"))
        else:
            found.append(_ratio_tile(latency.speedup, ("faster", "slower", "same speed"), detail))
    if known(after["retention"]):
        found.append(_retention_tile(run, before, after))
    if known(before["peak_memory_mb"]) and known(after["peak_memory_mb"]) and after["peak_memory_mb"] > 0:
        detail = (
            f"{significant(after['peak_memory_mb'])} MB instead of "
            f"{significant(before['peak_memory_mb'])} MB at the peak"
        )
        factor = before["peak_memory_mb"] / after["peak_memory_mb"]
        found.append(_ratio_tile(factor, ("less memory", "more memory", "same memory"), detail))
    return tuple(found)


def _retention_tile(run: RunRecord, before: dict[str, float], after: dict[str, float]) -> Tile:
    interval = percent_range(after["retention_low"], after["retention_high"])
    fmt = metric_format(run.metric)
    scores = f"{fmt.value(after['score'])} instead of {fmt.value(before['score'])}"
    detail = scores + (f"; 95 % interval {interval}" if interval else "")
    tone: Tone = "bad" if str(after["score_verdict"]) == "worse" else "good"
    limit = [limit for limit in run.limits if limit.name == "retention"][-1:]
    if limit:
        tone = "good" if limit[0].held else "bad"
    label = (
        f"retention: the baseline's {fmt.words} over its own"
        if fmt.smaller_is_better
        else f"of the baseline's {fmt.words} kept"
    )
    return Tile(percent(after["retention"]), label, detail, tone)


def _ratio_tile(factor: float, words: tuple[str, str, str], detail: str) -> Tile:
    if times(max(factor, 1 / factor)) == times(1):
        return Tile(words[2], "as the baseline", detail, "quiet")
    if factor >= 1:
        return Tile(times(factor), words[0], detail, "good")
    return Tile(times(1 / factor), words[1], detail, "bad")


def _significance_words(run: RunRecord, baseline: StepRecord, deployed: StepRecord) -> list[str]:
    values = row_of(deployed, baseline, first_target(run))
    lines = []
    if values["score_verdict"] is not None:
        lines.append(_score_words(run, deployed, values))
    if values["latency_verdict"] == "no difference":
        lines.append(f"No difference: the timings cannot tell {deployed.step!r} from the baseline.")
    return lines


def _score_words(run: RunRecord, deployed: StepRecord, values: dict[str, Any]) -> str:
    accuracy = accuracy_on(deployed, first_target(run))
    no_difference = values["score_verdict"] == "no difference"
    fmt = metric_format(run.metric)
    if accuracy is not None and accuracy.against == "baseline":
        score_text = f"their {fmt.words} is {fmt.value(values['score'])}"
        interval = fmt.range(values["score_low"], values["score_high"])
        order = "as the baseline's do, up to rounding" if no_difference else "differently from the baseline's"
        return f"The similarities of {deployed.step!r} rank the test texts {order}: {score_text}" + (
            f", with a 95 % interval of {interval}." if interval else "."
        )
    kind = fmt.test
    p_text = p_value(values["p_value"])
    test = f" ({kind}, {p_text})" if p_text else ""
    if no_difference:
        return (
            f"No difference: the test split cannot tell the {fmt.words} of {deployed.step!r} "
            f"from the baseline's{test}."
        )
    return (
        f"The {fmt.words} of {deployed.step!r} is significantly {values['score_verdict']} than the "
        f"baseline's{test}."
    )


def _completed_words(run: RunRecord) -> tuple[str, ...]:
    done = [step.step for step in run.steps if step.status != "failed"]
    return (f"Completed before that: {', '.join(done)}." if done else "No step was completed.",)


def _with_unit(name: str, value: float, digits: int, metric: str) -> str:
    if name == "score" and not metric_format(metric).percent:
        return f"{value:.{digits}f}"
    if name in _FRACTIONS:
        return percent(value, digits - 2)
    quantity = quantity_kind(name)
    return f"{significant(value, digits)}{_UNITS.get(name, '') if quantity is None else f' {quantity.unit}'}"
