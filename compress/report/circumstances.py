"""The sections that say how it came out: training, timings everywhere, memory, noise, protocol, data, environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.records import Curve, RunRecord, TargetMeasurement
from compress.report.document import Cell, Code, Figure, Section, Table, Training, row
from compress.report.numbers import MISSING, count, known, percent, significant, times, times_range
from compress.report.row import baseline_of, first_target, measured_on, ordered
from compress.units import format_seconds


def training(run: RunRecord) -> Section:
    """Training curves: the loss, and the score on the validation split."""
    figures, rows = [], []
    for step in run.steps:
        for curve in step.curves:
            if not curve.points:
                continue
            name = curve.name if curve.name.startswith(step.step) else f"{step.step}, {curve.name}"
            scored = [point for point in curve.points if known(point.validation_score)]
            best = max(scored, key=lambda point: point.validation_score or 0.0, default=None)
            last = curve.points[-1]
            rows.append(
                row(
                    name,
                    count(last.step),
                    significant(last.epoch),
                    significant(last.train_loss),
                    percent(best.validation_score) if best else MISSING,
                    count(best.step) if best else MISSING,
                )
            )
            if len(curve.points) > 1:
                figures.append(_curve_figure(run, name, curve))
    table = Table(
        "Training runs",
        ("Run", "steps", "epochs", "last loss", f"best validation {run.metric}", "at step"),
        tuple(rows),
    )
    return Section("training", "Training", tables=(table,) if rows else (), figures=tuple(figures))


def timings(run: RunRecord) -> Section:
    """Every target, batch size and length that was timed."""
    tables = []
    for target in run.targets:
        rows = []
        for step in ordered(run):
            found = measured_on(step, target)
            for latency in found.latency if found else ():
                rows.append(
                    row(
                        step.step,
                        count(latency.batch_size),
                        length_words(latency.lengths),
                        significant(latency.p50_ms),
                        significant(latency.p95_ms),
                        Cell(
                            times(latency.speedup),
                            times_range(latency.speedup_low, latency.speedup_high),
                        ),
                        latency.verdict,
                        significant(latency.throughput),
                        kind=step.role,
                    )
                )
        if rows:
            columns = ("Step", "batch", "lengths", "p50 ms", "p95 ms", "speed-up", "verdict", "examples/s")
            tables.append(Table(f"Timings on {target}", columns, tuple(rows), frozenset({2, 6})))
    return Section("timings", "Every target and batch size", tables=tuple(tables))


def targets(run: RunRecord) -> Section:
    """Scores and memory on the targets beyond the first; the first one's are in the table of steps."""
    tables = []
    for target in run.targets[1:]:
        rows = []
        for step in ordered(run):
            found = measured_on(step, target)
            if found is None:
                continue
            metric = found.accuracy.metrics[0] if found.accuracy.metrics else None
            rows.append(
                row(
                    step.step,
                    percent(metric.value) if metric else MISSING,
                    percent(1.0 if step.role == "baseline" else found.accuracy.retention),
                    found.accuracy.verdict or MISSING,
                    significant(found.memory.peak_mb),
                    kind=step.role,
                )
            )
        if rows:
            columns = ("Step", run.metric, "retention", "against its baseline", "peak MB")
            tables.append(Table(f"Scores and memory on {target}", columns, tuple(rows), frozenset({3})))
    return Section("targets", "Further targets", tables=tuple(tables))


def metrics(run: RunRecord) -> Section:
    """Every metric of every step, where a task has more than its primary one."""
    target = first_target(run)
    found = {step.step: measured_on(step, target) for step in ordered(run)}
    scores = {name: one.accuracy.metrics for name, one in found.items() if one is not None}
    names = list(dict.fromkeys(metric.name for values in scores.values() for metric in values))
    if len(names) < 2:
        return Section("metrics", "All metrics")
    rows = []
    for name, values in scores.items():
        by_name = {metric.name: metric for metric in values}
        cells = [
            Cell(percent(by_name[key].value), f"{100 * by_name[key].low:.1f}–{100 * by_name[key].high:.1f} %")
            if key in by_name
            else Cell(MISSING)
            for key in names
        ]
        rows.append(row(name, *cells))
    return Section(
        "metrics", "All metrics", tables=(Table("Metrics on the test split", ("Step", *names), tuple(rows)),)
    )


def memory(run: RunRecord) -> Section:
    """Memory of a process of its own, and what lies on disk."""
    target = first_target(run)
    measured = [(step, found) for step in ordered(run) if (found := measured_on(step, target)) is not None]
    gpu = any(found.memory.gpu_peak_mb is not None for _, found in measured)
    columns = ("Step", "peak MB", "absolute peak MB", "before loading MB", *(("GPU peak MB",) if gpu else ()))
    rows = tuple(
        row(
            step.step,
            significant(found.memory.peak_mb),
            significant(found.memory.absolute_peak_mb),
            significant(found.memory.before_load_mb),
            *((significant(found.memory.gpu_peak_mb),) if gpu else ()),
            kind=step.role,
        )
        for step, found in measured
    )
    sizes = tuple(
        row(
            step.step,
            significant(step.size.model_mb),
            significant(step.size.tokenizer_mb),
            significant(step.size.total_mb),
            Cell(step.form),
            kind=step.role,
        )
        for step in ordered(run)
        if step.size is not None
    )
    tables = []
    if rows:
        tables.append(Table(f"Resident memory on {target}", columns, rows))
    if sizes:
        tables.append(
            Table(
                "On disk", ("Step", "model MB", "tokenizer MB", "all files MB", "form"), sizes, frozenset({4})
            )
        )
    words = (
        "Peak is the highest resident size above that before the model is loaded, in a process of its own that "
        "imports only numpy and the runtime. MB are 10^6 bytes.",
    )
    return Section("memory", "Memory and disk", words if tables else (), tuple(tables))


def protocol(run: RunRecord) -> Section:
    """How it was measured, in words, with the noise of the machine from the run of the baseline against itself."""
    words, rows = [], []
    baseline = baseline_of(run)
    for target in run.targets:
        found = measured_on(baseline, target)
        if found is None:
            continue
        words.append(_protocol_words(found))
        for latency in found.latency:
            rows.append(
                row(
                    Cell(target, f"batch {latency.batch_size}, {length_words(latency.lengths)}"),
                    times(latency.speedup),
                    times_range(latency.speedup_low, latency.speedup_high),
                    Cell(latency.verdict, tone="" if latency.verdict == "no difference" else "bad"),
                )
            )
            if latency.verdict != "no difference":
                words.append(
                    f"The machine was not steady: on {target} at batch {latency.batch_size} the baseline came out as "
                    f"{latency.verdict} than itself ({times(latency.speedup)}). Do not trust differences of that size."
                )
    if not words:
        return Section("protocol", "How it was measured")
    words.append(
        "Every model is the saved file, loaded again in a fresh process, and timed in alternation with the baseline "
        "(A B A B, both in the same process, thread spinning off), so that a machine that drifts does not invent a "
        "speed-up. Speed-ups are ratios of the medians of such a pair, with a 95 % bootstrap interval; 'no difference' "
        "is said where that interval, or McNemar's exact test on the predictions, cannot tell two models apart."
    )
    noise = Table(
        "Noise floor: the baseline timed against itself (A/A run)",
        ("Target", "ratio", "95 % interval", "verdict"),
        tuple(rows),
        frozenset({3}),
    )
    return Section("protocol", "How it was measured", tuple(words), (noise,))


def findings(run: RunRecord) -> Section:
    """What the steps found out about their own work."""
    rows = [
        row(step.step, key, text)
        for step in ordered(run)
        for key, text in flatten({k: v for k, v in step.facts.items() if k not in ("parameters", "macs")})
    ]
    share = [
        row(step.step, "unknown tokens in the test split", percent(found.accuracy.unknown_token_share, 2))
        for step in ordered(run)
        if (found := measured_on(step, first_target(run))) is not None
        and known(found.accuracy.unknown_token_share)
    ]
    table = Table(
        "Facts recorded by the steps", ("Step", "what", "value"), tuple(rows + share), frozenset({1, 2})
    )
    return Section("findings", "What the steps report", tables=(table,) if table.rows else ())


def data(run: RunRecord) -> Section:
    """The splits, the labels and the seed."""
    rows = tuple(row(name, count(size)) for name, size in run.splits.items())
    labels = ", ".join(run.labels[:30]) + (
        f" and {len(run.labels) - 30} more" if len(run.labels) > 30 else ""
    )
    words = [f"{len(run.labels)} labels: {labels}."] if run.labels else []
    words += run.notes
    words.append(f"Seed {run.seed}. The test split is never trained on, calibrated on or tuned on.")
    tables = (Table("Examples in each split", ("Split", "examples"), rows),) if rows else ()
    return Section("data", "Data", tuple(words), tables)


def environment(run: RunRecord) -> Section:
    """The machine, the versions, the cost."""
    worked = sum(step.seconds + step.lower_seconds for step in run.steps)
    measured = sum(step.measure_seconds for step in run.steps)
    words = (
        f"Run {run.run}, started {run.started}. The work of its steps took {format_seconds(worked)}, measuring them "
        f"{format_seconds(measured)} (what came from the cache counts with the time it took when it was made).",
    )
    rows = tuple(row(key, text) for key, text in flatten(run.environment))
    tables = (Table("Environment", ("What", "value"), rows, frozenset({1})),) if rows else ()
    return Section("environment", "Environment", words, tables)


def profile(run: RunRecord) -> Section:
    """The profile that asked for all this."""
    code = Code("yaml", run.profile_text.rstrip("\n")) if run.profile_text.strip() else None
    return Section("profile", "Profile", code=code)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as dotted keys with one line of text each, in the order they stand."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            lines += flatten(value, f"{name}.")
        else:
            lines.append((name, value_words(value)))
    return lines


def value_words(value: Any) -> str:
    """A JSON value as one line of text; long lists are cut, and say so."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if known(value) else MISSING
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        shown = ", ".join(value_words(item) for item in value[:12])
        return shown if len(value) <= 12 else f"{shown}, … ({len(value)} in all)"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {text}" for key, text in flatten(value))
    return str(value)


def length_words(lengths: str) -> str:
    """What was timed: `real` -> `real lengths`, `fixed:128` -> `128 tokens`."""
    return (
        f"{lengths.removeprefix('fixed:')} tokens" if lengths.startswith("fixed:") else f"{lengths} lengths"
    )


def _protocol_words(found: TargetMeasurement) -> str:
    accuracy = found.accuracy
    timed = "; ".join(
        f"batches of {latency.batch_size} at {length_words(latency.lengths)}, {latency.mean_tokens:.1f} tokens on "
        f"average, {latency.rounds} rounds"
        for latency in found.latency
    )
    words = (
        f"{found.target}: scored on {len(accuracy.truth)} examples of the split {accuracy.split!r} at batch size "
        f"{accuracy.batch_size}. Timed: {timed or 'nothing'}. Tokenization is left out of the latencies"
    )
    if known(found.tokenization_ms):
        words += f"; it takes {significant(found.tokenization_ms)} ms an example beside them"
    return f"{words}. Protocol {found.protocol}, target {found.fingerprint[:12]}."


def _curve_figure(run: RunRecord, name: str, curve: Curve) -> Figure:
    scored = [
        (point.step, point.validation_score) for point in curve.points if point.validation_score is not None
    ]
    losses = [(point.step, point.train_loss) for point in curve.points if known(point.train_loss)]
    plot = Training(
        tuple(step for step, _ in losses),
        tuple(loss for _, loss in losses),
        tuple(step for step, score in scored if known(score)),
        tuple(100 * score for _, score in scored if known(score)),
        f"validation {run.metric}, %",
    )
    ends = (
        f"The loss goes from {significant(plot.losses[0])} to {significant(plot.losses[-1])}"
        if losses
        else name
    )
    if plot.scores:
        ends += f", the validation {run.metric} from {plot.scores[0]:.1f} % to {plot.scores[-1]:.1f} %"
    return Figure(plot, f"{name}: training loss and validation {run.metric}.", f"{name}. {ends}.")
