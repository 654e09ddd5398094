"""Sections on how the results were obtained: all timings, memory, noise, protocol, data, environment."""

from __future__ import annotations

from compress.core.records import Latency, RunRecord, StepRecord, TargetMeasurement
from compress.core.units import format_seconds
from compress.passes.table import PASSES
from compress.reporting.data.row import (
    baseline_of,
    examples_of,
    first_target,
    measurement_on,
    measurements_on,
    ordered_steps,
    score_values,
)
from compress.reporting.render.document import Cell, Code, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, known, percent, significant, times, times_range
from compress.reporting.render.scores import examples_noun, metric_format, throughput_title
from compress.reporting.sections.facts import flatten, ranks_to_values
from compress.tasks.table import metric_kind


def timings(run: RunRecord) -> Section:
    """Build the section of all timings: every target, batch size and length."""
    tables = []
    is_image_task = examples_noun(run.task) == "images"
    lengths = () if is_image_task else ("lengths",)
    columns = (
        *("Step", "batch", *lengths, "p50 ms", "p95 ms", "baseline p50 ms"),
        *("speed-up", "verdict", throughput_title(run.task)),
    )
    text_columns = frozenset({columns.index(name) for name in (*lengths, "verdict")})
    for target in run.targets:
        rows = tuple(
            row(
                step.step,
                count(latency.batch_size),
                *(() if is_image_task else (length_words(latency.lengths),)),
                significant(latency.p50_ms),
                significant(latency.p95_ms),
                significant(latency.baseline_p50_ms),
                Cell(MISSING)
                if latency.disturbed
                else Cell(times(latency.speedup), times_range(latency.speedup_low, latency.speedup_high)),
                _verdict(latency),
                significant(latency.throughput),
                kind=step.role,
            )
            for step, measurement in measurements_on(run, target)
            for latency in measurement.latency
        )
        tables.append(Table(f"Timings on {target}", columns, rows, text_columns))
    return section_of("timings", "Every target and batch size", *tables)


def targets(run: RunRecord) -> Section:
    """Build the section of scores and memory on further targets; those of the first one are in the table of steps."""
    columns = ("Step", metric_format(run.metric).words, "retention", "against its baseline", "peak MB")
    tables = []
    for target in run.targets[1:]:
        rows = []
        for step, measurement in measurements_on(run, target):
            scores = score_values(step, baseline_of(run), measurement)
            cells = (
                metric_format(run.metric).value(scores["score"]),
                percent(scores["retention"]),
                scores["score_verdict"] or MISSING,
                significant(measurement.memory.peak_mb),
            )
            rows.append(row(step.step, *cells, kind=step.role))
        tables.append(Table(f"Scores and memory on {target}", columns, tuple(rows), frozenset({3})))
    return section_of("targets", "Further targets", *tables)


def metrics(run: RunRecord) -> Section:
    """Build the section of all metrics of every step, if the task has more than one."""
    measured_steps = measurements_on(run, first_target(run))
    scores = {step.step: measurement.accuracy.metrics for step, measurement in measured_steps}
    names = list(dict.fromkeys(metric.name for values in scores.values() for metric in values))
    if len(names) < 2:
        return Section("metrics", "All metrics")
    rows = []
    for name, values in scores.items():
        by_name = {metric.name: metric for metric in values}
        cells = [
            Cell(
                metric_format(key).value(by_name[key].value),
                metric_format(key).range(by_name[key].low, by_name[key].high),
            )
            if key in by_name
            else Cell(MISSING)
            for key in names
        ]
        rows.append(row(name, *cells))
    columns = ("Step", *(metric_format(name).words for name in names))
    table = Table("Metrics on the test split", columns, tuple(rows))
    references = {measurement.accuracy.against for _, measurement in measured_steps}
    meanings = [metric_kind(name).meanings for name in names]
    paragraphs = tuple(
        meaning[against] for meaning in meanings for against in meaning if against in references
    )
    return Section("metrics", "All metrics", paragraphs, (table,))


def _fits(measurement: TargetMeasurement) -> str:
    limit = measurement.memory.limit_mb
    return MISSING if limit is None else f"{'no' if measurement.memory.over_limit else 'yes'}: {limit:g} MB"


def memory(run: RunRecord) -> Section:
    """Build the section on the memory of a separate process, and on disk usage."""
    target = first_target(run)
    measured_steps = measurements_on(run, target)
    workloads = dict.fromkeys(measurement.memory.lengths for _, measurement in measured_steps)
    has_gpu = any(measurement.memory.gpu_peak_mb is not None for _, measurement in measured_steps)
    has_limit = any(measurement.memory.limit_mb is not None for _, measurement in measured_steps)
    columns = (
        "Step",
        "peak MB",
        "absolute peak MB",
        "before loading MB",
        "load time, ms",
        *(("fits the limit",) if has_limit else ()),
        *(("GPU peak MB",) if has_gpu else ()),
    )
    rows = tuple(
        row(
            step.step,
            significant(measurement.memory.peak_mb),
            significant(measurement.memory.absolute_peak_mb),
            significant(measurement.memory.before_load_mb),
            significant(measurement.load_ms),
            *((_fits(measurement),) if has_limit else ()),
            *((significant(measurement.memory.gpu_peak_mb),) if has_gpu else ()),
            kind=step.role,
        )
        for step, measurement in measured_steps
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
        for step in ordered_steps(run)
        if step.size is not None
    )
    paragraphs = (
        "Peak is the highest resident memory above the level before the model was loaded, in a separate process that "
        "imports only numpy and the runtime. 1 MB is 10^6 bytes. Files are in the system's cache when they are loaded.",
        *(
            f"Workload while memory was measured: {workload}, in tokens."
            for workload in workloads
            if workload != "real"
        ),
    )
    disk_columns = ("Step", "model MB", "tokenizer MB", "all files MB", "form")
    return section_of(
        "memory",
        "Memory and disk",
        Table(f"Resident memory on {target}", columns, rows),
        Table("On disk", disk_columns, sizes, frozenset({4})),
        paragraphs=paragraphs,
    )


def protocol(run: RunRecord) -> Section:
    """Build the section on how it was measured, with the machine's noise from an A/A run of the baseline."""
    paragraphs, rows = [], []
    baseline = baseline_of(run)
    is_image_task = examples_noun(run.task) == "images"
    for target in run.targets:
        measurement = measurement_on(baseline, target)
        if measurement is None:
            continue
        paragraphs.append(_protocol_words(measurement, run.task))
        for latency in measurement.latency:
            setting = f"batch {latency.batch_size}" + (
                "" if is_image_task else f", {length_words(latency.lengths)}"
            )
            rows.append(
                row(
                    Cell(target, setting),
                    times(latency.speedup),
                    times_range(latency.speedup_low, latency.speedup_high),
                    Cell(_verdict(latency), tone="" if latency.verdict == "no difference" else "bad"),
                )
            )
            if latency.verdict not in (None, "no difference"):
                paragraphs.append(
                    f"The machine was not steady: on {target} at batch {latency.batch_size} the baseline measured "
                    f"{latency.verdict} than itself ({times(latency.speedup)}). Do not trust differences of that size."
                )
    if not paragraphs:
        return Section("protocol", "How it was measured")
    paragraphs.append(
        "Every model is loaded from its saved file in a fresh process and timed in alternation with the baseline "
        "(A B A B, both in the same process, thread spinning off), so that drift of the machine cannot fake a "
        "speed-up. Speed-ups are ratios of the medians of such a pair, with a 95 % bootstrap interval; 'no difference' "
        f"means that this interval, or {_test_words(baseline, run)}, cannot tell the two models apart. Rounds in which "
        "other processes kept the threads waiting for a core are discarded; a row with too many of them is marked "
        "'disturbed', and no speed is claimed for it."
    )
    noise = Table(
        "Noise floor: the baseline timed against itself (A/A run)",
        ("Target", "ratio", "95 % interval", "verdict"),
        tuple(rows),
        frozenset({3}),
    )
    return Section("protocol", "How it was measured", tuple(paragraphs), (noise,))


def findings(run: RunRecord) -> Section:
    """Build the section of facts recorded by the steps that no other section shows."""
    keys_elsewhere = ("parameters", "macs", *(fact for kind in PASSES.values() for fact in kind.told))
    rows = [
        row(step.step, key, text)
        for step in ordered_steps(run)
        for key, text in flatten(
            ranks_to_values(
                {key: fact for key, fact in step.facts.items() if key not in keys_elsewhere},
                metric_format(run.metric),
            )
        )
    ]
    unknown_token_rows = [
        row(
            step.step,
            "unknown tokens in the test split",
            percent(measurement.accuracy.unknown_token_share, 2),
        )
        for step, measurement in measurements_on(run, first_target(run))
        if known(measurement.accuracy.unknown_token_share)
    ]
    table = Table(
        "Facts recorded by the steps",
        ("Step", "what", "value"),
        tuple(rows + unknown_token_rows),
        frozenset({1, 2}),
    )
    return section_of("findings", "What the steps report", table)


def data(run: RunRecord) -> Section:
    """Build the section of splits, labels and seed."""
    rows = tuple(row(name, count(size)) for name, size in run.splits.items())
    labels = ", ".join(run.labels[:30]) + (
        f" and {len(run.labels) - 30} more" if len(run.labels) > 30 else ""
    )
    paragraphs = [f"{len(run.labels)} labels: {labels}." if run.labels else "The texts have no labels."]
    paragraphs += run.notes
    paragraphs.append(f"Seed {run.seed}. The test split is never used for training, calibration or tuning.")
    tables = (Table("Examples in each split", ("Split", "examples"), rows),) if rows else ()
    return Section("data", "Data", tuple(paragraphs), tables)


def environment(run: RunRecord) -> Section:
    """Build the section of machine, versions and cost."""
    step_seconds = sum(step.seconds + step.lower_seconds for step in run.steps)
    measured = sum(step.measure_seconds for step in run.steps)
    paragraphs = (
        f"Run {run.run}, started {run.started}. Its steps took {format_seconds(step_seconds)}, and measuring them "
        f"{format_seconds(measured)} (cached results count with the time they took originally).",
    )
    rows = tuple(row(key, text) for key, text in flatten(run.environment))
    tables = (Table("Environment", ("What", "value"), rows, frozenset({1})),) if rows else ()
    return Section("environment", "Environment", paragraphs, tables)


def profile(run: RunRecord) -> Section:
    """Build the section with the text of the profile."""
    code = Code("yaml", run.profile_text.rstrip("\n")) if run.profile_text.strip() else None
    return Section("profile", "Profile", code=code)


def length_words(lengths: str) -> str:
    """Describe timed lengths: `real` -> `real lengths`, `fixed:128` -> `128 tokens`, `read:8` -> `read, 8 tokens`."""
    kind, _, length = lengths.partition(":")
    if not length:
        return f"{kind} lengths"
    return f"{length} tokens" if kind == "fixed" else f"{kind}, {length} tokens"


def _protocol_words(measurement: TargetMeasurement, task: str) -> str:
    accuracy, is_image_task = measurement.accuracy, examples_noun(task) == "images"
    timings_text = "; ".join(
        f"batches of {latency.batch_size}"
        + (
            ""
            if is_image_task
            else f" at {length_words(latency.lengths)}, {latency.mean_tokens:.1f} tokens on average"
        )
        + f", {latency.rounds} rounds"
        for latency in measurement.latency
    )
    pairs = "pairs of texts" if accuracy.against == "scores" else ""
    unit = accuracy.metrics and metric_kind(accuracy.metrics[0].name).count_unit
    scored_text = f"{examples_of(accuracy)} {pairs or unit or examples_noun(task)}"
    words = (
        f"{measurement.target}: scored on {scored_text} of split {accuracy.split!r} at batch size "
        f"{accuracy.batch_size}. Timed: {timings_text or 'nothing'}. "
        f"{'Reading images' if is_image_task else 'Tokenization'} is not included in the latencies"
    )
    if known(measurement.tokenization_ms):
        words += f"; it takes a further {significant(measurement.tokenization_ms)} ms per example"
    return f"{words}. Protocol {measurement.protocol}, target {measurement.fingerprint[:12]}."


def _test_words(baseline: StepRecord | None, run: RunRecord) -> str:
    """Return the test that decides whether two scores differ."""
    measurement = measurement_on(baseline, first_target(run))
    if measurement is None or measurement.accuracy.against == "labels":
        return "McNemar's exact test on the predictions"
    if measurement.accuracy.against == "examples":
        return f"the {metric_format(run.metric).test or 'test of the metric'}"
    return "that of the correlation"


def _verdict(latency: Latency) -> str:
    return latency.verdict or "disturbed"
