"""Sections on how the results were obtained: all timings, memory, noise, protocol, data, environment."""

from __future__ import annotations

from compress.core.records import Latency, RunRecord, StepRecord, TargetMeasurement
from compress.core.units import format_seconds
from compress.passes.table import PASSES
from compress.reporting.data.row import (
    all_measured,
    baseline_of,
    examples_of,
    first_target,
    measured_on,
    ordered,
    score_values,
)
from compress.reporting.render.document import Cell, Code, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, known, percent, significant, times, times_range
from compress.reporting.render.scores import examples_word, rate_words, reading
from compress.reporting.sections.facts import as_measured, flatten
from compress.tasks.table import metric_kind


def timings(run: RunRecord) -> Section:
    """Build the section of all timings: every target, batch size and length."""
    tables = []
    images = examples_word(run.task) == "images"
    lengths = () if images else ("lengths",)
    columns = (
        *("Step", "batch", *lengths, "p50 ms", "p95 ms", "baseline p50 ms"),
        *("speed-up", "verdict", rate_words(run.task)),
    )
    words = frozenset({columns.index(name) for name in (*lengths, "verdict")})
    for target in run.targets:
        rows = tuple(
            row(
                step.step,
                count(latency.batch_size),
                *(() if images else (length_words(latency.lengths),)),
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
            for step, found in all_measured(run, target)
            for latency in found.latency
        )
        tables.append(Table(f"Timings on {target}", columns, rows, words))
    return section_of("timings", "Every target and batch size", *tables)


def targets(run: RunRecord) -> Section:
    """Build the section of scores and memory on further targets; those of the first one are in the table of steps."""
    columns = ("Step", reading(run.metric).words, "retention", "against its baseline", "peak MB")
    tables = []
    for target in run.targets[1:]:
        rows = []
        for step, found in all_measured(run, target):
            scores = score_values(step, baseline_of(run), found)
            cells = (
                reading(run.metric).value(scores["score"]),
                percent(scores["retention"]),
                scores["score_verdict"] or MISSING,
                significant(found.memory.peak_mb),
            )
            rows.append(row(step.step, *cells, kind=step.role))
        tables.append(Table(f"Scores and memory on {target}", columns, tuple(rows), frozenset({3})))
    return section_of("targets", "Further targets", *tables)


def metrics(run: RunRecord) -> Section:
    """Build the section of all metrics of every step, if the task has more than one."""
    measured = all_measured(run, first_target(run))
    scores = {step.step: found.accuracy.metrics for step, found in measured}
    names = list(dict.fromkeys(metric.name for values in scores.values() for metric in values))
    if len(names) < 2:
        return Section("metrics", "All metrics")
    rows = []
    for name, values in scores.items():
        by_name = {metric.name: metric for metric in values}
        cells = [
            Cell(
                reading(key).value(by_name[key].value),
                reading(key).range(by_name[key].low, by_name[key].high),
            )
            if key in by_name
            else Cell(MISSING)
            for key in names
        ]
        rows.append(row(name, *cells))
    columns = ("Step", *(reading(name).words for name in names))
    table = Table("Metrics on the test split", columns, tuple(rows))
    held = {found.accuracy.against for _, found in measured}
    meanings = [metric_kind(name).meanings for name in names]
    words = tuple(each[against] for each in meanings for against in each if against in held)
    return Section("metrics", "All metrics", words, (table,))


def _fits(found: TargetMeasurement) -> str:
    limit = found.memory.limit_mb
    return MISSING if limit is None else f"{'no' if found.memory.over_limit else 'yes'}: {limit:g} MB"


def memory(run: RunRecord) -> Section:
    """Build the section on the memory of a separate process, and on disk usage."""
    target = first_target(run)
    measured = all_measured(run, target)
    run_meanwhile = dict.fromkeys(found.memory.lengths for _, found in measured)
    gpu = any(found.memory.gpu_peak_mb is not None for _, found in measured)
    limited = any(found.memory.limit_mb is not None for _, found in measured)
    columns = (
        "Step",
        "peak MB",
        "absolute peak MB",
        "before loading MB",
        "load time, ms",
        *(("fits the limit",) if limited else ()),
        *(("GPU peak MB",) if gpu else ()),
    )
    rows = tuple(
        row(
            step.step,
            significant(found.memory.peak_mb),
            significant(found.memory.absolute_peak_mb),
            significant(found.memory.before_load_mb),
            significant(found.load_ms),
            *((_fits(found),) if limited else ()),
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
    words = (
        "Peak is the highest resident memory above the level before the model was loaded, in a separate process that "
        "imports only numpy and the runtime. 1 MB is 10^6 bytes. Files are in the system's cache when they are loaded.",
        *(f"Workload while memory was measured: {one}, in tokens." for one in run_meanwhile if one != "real"),
    )
    disk = ("Step", "model MB", "tokenizer MB", "all files MB", "form")
    return section_of(
        "memory",
        "Memory and disk",
        Table(f"Resident memory on {target}", columns, rows),
        Table("On disk", disk, sizes, frozenset({4})),
        words=words,
    )


def protocol(run: RunRecord) -> Section:
    """Build the section on how it was measured, with the machine's noise from an A/A run of the baseline."""
    words, rows = [], []
    baseline = baseline_of(run)
    images = examples_word(run.task) == "images"
    for target in run.targets:
        found = measured_on(baseline, target)
        if found is None:
            continue
        words.append(_protocol_words(found, run.task))
        for latency in found.latency:
            timed = f"batch {latency.batch_size}" + ("" if images else f", {length_words(latency.lengths)}")
            rows.append(
                row(
                    Cell(target, timed),
                    times(latency.speedup),
                    times_range(latency.speedup_low, latency.speedup_high),
                    Cell(_verdict(latency), tone="" if latency.verdict == "no difference" else "bad"),
                )
            )
            if latency.verdict not in (None, "no difference"):
                words.append(
                    f"The machine was not steady: on {target} at batch {latency.batch_size} the baseline measured "
                    f"{latency.verdict} than itself ({times(latency.speedup)}). Do not trust differences of that size."
                )
    if not words:
        return Section("protocol", "How it was measured")
    words.append(
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
    return Section("protocol", "How it was measured", tuple(words), (noise,))


def findings(run: RunRecord) -> Section:
    """Build the section of facts recorded by the steps that no other section shows."""
    elsewhere = ("parameters", "macs", *(fact for kind in PASSES.values() for fact in kind.told))
    rows = [
        row(step.step, key, text)
        for step in ordered(run)
        for key, text in flatten(
            as_measured(
                {key: fact for key, fact in step.facts.items() if key not in elsewhere}, reading(run.metric)
            )
        )
    ]
    share = [
        row(step.step, "unknown tokens in the test split", percent(found.accuracy.unknown_token_share, 2))
        for step, found in all_measured(run, first_target(run))
        if known(found.accuracy.unknown_token_share)
    ]
    table = Table(
        "Facts recorded by the steps", ("Step", "what", "value"), tuple(rows + share), frozenset({1, 2})
    )
    return section_of("findings", "What the steps report", table)


def data(run: RunRecord) -> Section:
    """Build the section of splits, labels and seed."""
    rows = tuple(row(name, count(size)) for name, size in run.splits.items())
    labels = ", ".join(run.labels[:30]) + (
        f" and {len(run.labels) - 30} more" if len(run.labels) > 30 else ""
    )
    words = [f"{len(run.labels)} labels: {labels}." if run.labels else "The texts have no labels."]
    words += run.notes
    words.append(f"Seed {run.seed}. The test split is never used for training, calibration or tuning.")
    tables = (Table("Examples in each split", ("Split", "examples"), rows),) if rows else ()
    return Section("data", "Data", tuple(words), tables)


def environment(run: RunRecord) -> Section:
    """Build the section of machine, versions and cost."""
    worked = sum(step.seconds + step.lower_seconds for step in run.steps)
    measured = sum(step.measure_seconds for step in run.steps)
    words = (
        f"Run {run.run}, started {run.started}. Its steps took {format_seconds(worked)}, and measuring them "
        f"{format_seconds(measured)} (cached results count with the time they took originally).",
    )
    rows = tuple(row(key, text) for key, text in flatten(run.environment))
    tables = (Table("Environment", ("What", "value"), rows, frozenset({1})),) if rows else ()
    return Section("environment", "Environment", words, tables)


def profile(run: RunRecord) -> Section:
    """Build the section with the text of the profile."""
    code = Code("yaml", run.profile_text.rstrip("\n")) if run.profile_text.strip() else None
    return Section("profile", "Profile", code=code)


def length_words(lengths: str) -> str:
    """Describe timed lengths: `real` -> `real lengths`, `fixed:128` -> `128 tokens`, `read:8` -> `read, 8 tokens`."""
    what, _, length = lengths.partition(":")
    if not length:
        return f"{what} lengths"
    return f"{length} tokens" if what == "fixed" else f"{what}, {length} tokens"


def _protocol_words(found: TargetMeasurement, task: str) -> str:
    accuracy, images = found.accuracy, examples_word(task) == "images"
    timed = "; ".join(
        f"batches of {latency.batch_size}"
        + (
            ""
            if images
            else f" at {length_words(latency.lengths)}, {latency.mean_tokens:.1f} tokens on average"
        )
        + f", {latency.rounds} rounds"
        for latency in found.latency
    )
    pairs = "pairs of texts" if accuracy.against == "scores" else ""
    counted = accuracy.metrics and metric_kind(accuracy.metrics[0].name).counts
    scored = f"{examples_of(accuracy)} {pairs or counted or examples_word(task)}"
    words = (
        f"{found.target}: scored on {scored} of split {accuracy.split!r} at batch size "
        f"{accuracy.batch_size}. Timed: {timed or 'nothing'}. "
        f"{'Reading images' if images else 'Tokenization'} is not included in the latencies"
    )
    if known(found.tokenization_ms):
        words += f"; it takes a further {significant(found.tokenization_ms)} ms per example"
    return f"{words}. Protocol {found.protocol}, target {found.fingerprint[:12]}."


def _test_words(baseline: StepRecord | None, run: RunRecord) -> str:
    """Return the test that decides whether two scores differ."""
    found = measured_on(baseline, first_target(run))
    if found is None or found.accuracy.against == "labels":
        return "McNemar's exact test on the predictions"
    if found.accuracy.against == "examples":
        return f"the {reading(run.metric).test or 'test of the metric'}"
    return "that of the correlation"


def _verdict(latency: Latency) -> str:
    return latency.verdict or "disturbed"
