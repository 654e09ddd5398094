"""The run loop: make each row's step, measure it on each target, record it, judge it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from compress.core.artifacts import Artifact
from compress.core.disk.exhaustion import ran_out, resource_errors
from compress.core.errors import ModelError, RunInterrupted, UsageError, in_words
from compress.core.records import COMPLETE, RunRecord, RunStatus, StepRecord, TargetMeasurement
from compress.core.terminal.progress import Progress
from compress.engine.budget import judge_row, measured_values, outcome
from compress.engine.early_checks import target_warnings, try_untrained
from compress.engine.environment import describe_environment
from compress.engine.excerpts import excerpts, samples_in, with_texts
from compress.engine.making import make_step
from compress.engine.resolve import Job
from compress.measuring.artifact import measure
from compress.measuring.chance import no_better_than_chance
from compress.measuring.identity import model_digest
from compress.measuring.keys import measurement_key
from compress.measuring.memory_limit import check_memory_limit
from compress.measuring.size import size_of
from compress.passes.table import LOWER, SOURCE, step_kind
from compress.planning.steps import BASELINE, Row
from compress.store.cache import Cache, MadeStep
from compress.store.runs import BUNDLE, RUNS, RunStore
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import close_all

OnRow = Callable[[RunRecord, StepRecord], None]


@dataclass
class _State:
    """State of the run loop."""

    run: RunRecord
    made: dict[str, MadeStep] = field(default_factory=dict)
    baselines: dict[str, TargetMeasurement] = field(default_factory=dict)
    measured: dict[str, TargetMeasurement] = field(default_factory=dict)
    cached: dict[str, bool] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)


def run_job(
    job: Job,
    cache: Cache,
    folder: Path,
    progress: Progress,
    on_row: OnRow,
    was_interrupted: Callable[[], bool] = lambda: False,
) -> tuple[RunRecord, RunStore]:
    """Run a resolved job to its end, resuming an earlier run of the same plan.

    If a row that is only for comparison (role `variant`) fails, it is recorded with its error and the run continues.

    Args:
        job: the job to run.
        cache: the store of artifacts and measurements.
        folder: the working folder; the run's directory is `runs/<id>/` in it.
        progress: receives progress bars and messages.
        on_row: called with each finished row.
        was_interrupted: returns whether the user asked to stop, since libraries turn KeyboardInterrupts into their own
            errors.

    Returns:
        The finished run and its directory.

    Raises:
        CompressError: a step failed; the run's directory contains the details.
        RunInterrupted: the user stopped the run.
    """
    store = RunStore(folder / RUNS / job.run_id)
    # Machines that train together run at the same time, so they cannot wait for each other.
    wait = job.plan.profile.train.nodes == 1
    places = (cache.root, store.path, Path(tempfile.gettempdir()))
    with resource_errors(lambda: places), store.lock(progress, wait=wait):
        finished = _finished(store, job, progress)
        if finished is not None:
            for record in finished.steps:
                on_row(finished, record)
            return finished, store
        job.prepare(cache)
        with cache.in_use.hold(job.keys.values()):
            return _run(job, cache, store, progress, on_row, was_interrupted), store


def _run(
    job: Job,
    cache: Cache,
    store: RunStore,
    progress: Progress,
    on_row: OnRow,
    was_interrupted: Callable[[], bool],
) -> RunRecord:
    """Run the loop; the caller holds the locks of the run's directory and of its steps in the cache."""
    began = time.monotonic()
    state = _State(_new_run(job))
    store.begin(state.run)
    try:
        with resource_errors(lambda: (cache.root, store.path, Path(tempfile.gettempdir()))):
            for message in target_warnings(job):
                progress.say(f"warning: {message}")
            _fetch_models(job, state, cache, progress)
            try_untrained(job, cache, progress, lambda name: _made(name, job, state, cache, progress))
            for position, row in enumerate(job.plan.rows):
                try:
                    record = _row(row, job, state, cache, progress)
                except Exception as error:
                    # Exhausted resources stop the run even at a row that is only for comparison.
                    if row.role != "variant" or ran_out(error) or was_interrupted():
                        raise
                    record = _failed_row(row, job, in_words(error))
                store.add(position, record)
                steps = (*state.run.steps, record)
                limits = judge_row(record, job.plan.profile, steps[0]) if _is_judged(row, job) else ()
                state.run = state.run.model_copy(
                    update={"steps": steps, "limits": (*state.run.limits, *limits)}
                )
                if position == 0 and (useless := no_better_than_chance(record, state.run.labels)):
                    # Warn before hours are spent on passes.
                    progress.say(f"warning: {useless}")
                on_row(state.run, record)
            state.run = _finish(job, state, store, time.monotonic() - began)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt) and not was_interrupted():
            # On a full disk there may be no space for the record either: raise the original error in any case.
            with suppress(OSError):
                _record_failure(job, state, store, error)
            raise
        store.write(_ended(state.run, "interrupted", "stopped by the user"))
        raise RunInterrupted(
            "stopped; the same command resumes from the last checkpoint", where=str(store.path)
        ) from None
    finally:
        close_all(job.targets, progress)
    store.write(state.run)
    return state.run


def _finished(store: RunStore, job: Job, progress: Progress) -> RunRecord | None:
    """Return the run of this plan if it is complete, undisturbed, and its records and bundle are intact; else None."""
    if not (store.path / "run.json").is_file():
        return None
    try:
        run = store.load()
    except UsageError as error:
        progress.say(f"{store.path}: {error.message}; they are written again")
        return None
    whole = [step.step for step in run.steps] == [row.name for row in job.plan.rows]
    if run.status not in COMPLETE or not whole:
        return None
    if any(one.disturbed for step in run.steps for one in step.measurements):
        # Disturbed measurements are repeated, since the machine may be quiet now.
        return None
    if run.bundle is None:
        return run
    # Look beside the record instead of at the recorded path, since the working folder may have been moved or copied.
    bundle = store.path / BUNDLE
    if not bundle.is_dir():
        return None
    if not _is_whole(bundle):
        progress.say(f"{bundle}: this bundle is damaged; it is written again")
        return None
    return run.model_copy(update={"bundle": str(bundle)})


def _is_whole(bundle: Path) -> bool:
    """Whether the files of a bundle match its manifest; additional files are ignored."""
    from compress.bundles.verify import changed_files, listed_files, read_manifest

    try:
        return not changed_files(bundle, listed_files(bundle, read_manifest(bundle)))
    except ModelError:
        return False


def _new_run(job: Job) -> RunRecord:
    profile, splits = job.plan.profile, job.splits
    return RunRecord(
        run=job.run_id,
        profile=profile.name,
        task=profile.task,
        metric=job.task.kind.metric.name,
        status="running",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        labels=splits.labels,
        splits={"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        seed=profile.seed,
        profile_text=job.loaded.source.as_run,
        environment=describe_environment(job.numerics, job.targets),
        targets=tuple(target.label for target in job.targets),
        steps=(),
        notes=splits.notes,
    )


def _fetch_models(job: Job, state: _State, cache: Cache, progress: Progress) -> None:
    """Make the source steps first, so that an unusable model is found before another one is trained."""
    for step in job.plan.steps:
        if step.kind == SOURCE:
            _make(step.name, job, state, cache, progress)
            notes = state.made[step.name].artifact.facts.get("notes", ())
            state.run = state.run.model_copy(update={"notes": (*state.run.notes, *notes)})


def _row(row: Row, job: Job, state: _State, cache: Cache, progress: Progress) -> StepRecord:
    """Make the steps of a row, measure it on each target, and return its record."""
    before = set(state.recorded)
    cached = [_make(row.step, job, state, cache, progress)]
    lowered = {name for name in row.measured.values() if name != row.step}
    cached += [_make(name, job, state, cache, progress) for name in sorted(lowered)]
    measured_before = {one.key for step in state.run.steps for one in step.measurements}
    targets = [target for target in job.targets if row.is_measured_on(target.spec)]
    measurements = tuple(_measure(row, target, job, state, cache, progress) for target in targets)
    if row is job.plan.rows[-1]:
        # Earlier rows are intermediate results; for them the report shows where the limit is exceeded.
        check_memory_limit(measurements)
    made = state.made[row.step]
    first = state.made[row.measured[targets[0].spec.runtime]].artifact
    # A step with its own row is accounted for there, whichever row needs it first.
    told = before | ({other.step for other in job.plan.rows} - {row.step})
    work = {name: state.made[name].seconds for name in _needed(row, job) - told}
    state.recorded |= work.keys()
    # Curves of steps that prepare this row and have no row of their own.
    new = state.made.keys() - before
    trained = [name for name in state.made if name in new and step_kind(job.plan.step(name).kind).prepares]
    conversions = {name for name in work if job.plan.step(name).kind == LOWER}
    return StepRecord(
        step=row.name,
        kind=job.plan.step(row.step).kind,
        role=row.role,
        status="cached" if all(cached) else "ok",
        key=job.keys[row.step],
        form=str(first.form),
        artifact=_relative(made.artifact, cache),
        measured=_relative(first, cache),
        model_digest=model_digest(first),
        facts={**made.artifact.facts, **({"lowering": dict(first.facts)} if lowered else {})},
        curves=(*(curve for name in trained for curve in state.made[name].curves), *made.curves),
        size=size_of(first),
        parameters=made.artifact.facts["parameters"],
        macs=first.facts.get("macs"),
        seconds=sum(work[name] for name in work.keys() - conversions),
        lower_seconds=sum(work[name] for name in conversions),
        # A bundle has the file that was measured before packing, so its measurement is not counted again.
        measure_seconds=sum(one.seconds for one in measurements if one.key not in measured_before),
        measurements=measurements,
        samples=samples_in(made.artifact) if job.plan.profile.report.excerpts else (),
    )


def _make(name: str, job: Job, state: _State, cache: Cache, progress: Progress) -> bool:
    """Make a step and its inputs; return whether it was in the cache."""
    if name in state.made:
        return name in state.recorded or state.cached[name]
    step = job.plan.step(name)
    for needed in step.inputs.values():
        _make(needed, job, state, cache, progress)
    inputs = {role: state.made[source].artifact for role, source in step.inputs.items()}
    state.made[name], state.cached[name] = make_step(step, job, inputs, cache, progress)
    return state.cached[name]


def _made(name: str, job: Job, state: _State, cache: Cache, progress: Progress) -> Artifact:
    """Make a step and its inputs; return its artifact."""
    _make(name, job, state, cache, progress)
    return state.made[name].artifact


def _needed(row: Row, job: Job) -> set[str]:
    """Return all steps that a row depends on."""
    needed, open_ = set[str](), [row.step, *row.measured.values()]
    while open_:
        name = open_.pop()
        if name not in needed:
            needed.add(name)
            open_ += job.plan.step(name).inputs.values()
    return needed


def _measure(
    row: Row, target: ResolvedTarget, job: Job, state: _State, cache: Cache, progress: Progress
) -> TargetMeasurement:
    """Return the measurement of a row on a target, from the cache or by measuring.

    A disturbed measurement is reused only if it was made during this run, by it or concurrently by another run.
    """
    runtime = target.spec.runtime
    artifact, baseline = (state.made[one.measured[runtime]].artifact for one in (row, job.plan.rows[0]))
    profile = job.plan.profile
    key = measurement_key(
        artifact_digest=artifact.runtime_digest,
        baseline_digest=baseline.runtime_digest,
        fingerprint=target.fingerprint,
        split=job.test_digest,
        spec=profile.measure,
        seed=profile.seed,
        by=job.measured_by,
    )
    before = cache.measurement(key)
    measurement = state.measured.get(key) or (None if before is None or before.disturbed else before)
    if measurement is None:
        with cache.lock(f"measure-{key}", progress, f"measuring {row.name}"):
            measurement = cache.measurement(key)
            if measurement is None or measurement == before:
                measurement = measure(
                    artifact,
                    baseline,
                    None if row.name == BASELINE else state.baselines[target.label],
                    target,
                    job.task,
                    job.splits.test,
                    profile.measure,
                    seed=profile.seed,
                    key=key,
                    progress=progress,
                    shared=cache.references,
                    base=job.loaded.source.base,
                    allow_code=job.allow_code,
                )
                job.check_unchanged(models=False, data=True)
                cache.keep_measurement(measurement)
    state.measured[key] = measurement
    # The target's name is not part of the key: another profile may use another name for the same target. The machine
    # follows from the fingerprint, which is part of the key, but older measurements do not contain it.
    measurement = measurement.model_copy(update={"target": target.label, "machine": target.machine})
    measurement = with_texts(measurement, shown=profile.report.excerpts)
    if row.name == BASELINE:
        state.baselines[target.label] = measurement
    return measurement


def _is_judged(row: Row, job: Job) -> bool:
    return row is job.plan.rows[-1] or (job.plan.profile.budget.judge == "each" and row.role == "step")


def _finish(job: Job, state: _State, store: RunStore, wall_seconds: float) -> RunRecord:
    """Place the bundle with its measured metrics, and return the run with its final status."""
    bundle = None
    last = state.made[job.plan.rows[-1].step].artifact
    if last.form.bundled:
        # Imported here, since a run that is found finished needs no code of the passes.
        from compress.bundles.manifest import write_manifest_metrics

        path = store.place_bundle(last)
        deployed = state.run.steps[-1]
        useless = no_better_than_chance(state.run.steps[0]) is not None
        metrics = {
            "metric": job.task.kind.metric.name,
            "target": job.targets[0].label,
            **measured_values(deployed, job.task.kind.quantities, useless=useless),
            **({"latency_disturbed": True} if deployed.measurements[0].latency[0].disturbed else {}),
        }
        write_manifest_metrics(path, metrics, job.loaded.source.as_run, job.run_id)
        bundle = str(path)
    steps = state.run.steps
    shown = excerpts(steps[0], steps[-1], job.splits.test) if job.plan.profile.report.excerpts else {}
    run = _ended(state.run, outcome(state.run.limits), None)
    return run.model_copy(update={"bundle": bundle, "excerpts": shown, "wall_seconds": wall_seconds})


def _ended(run: RunRecord, status: RunStatus, error: str | None) -> RunRecord:
    seconds = sum(step.seconds + step.lower_seconds + step.measure_seconds for step in run.steps)
    return run.model_copy(update={"status": status, "seconds": seconds, "error": error})


def _record_failure(job: Job, state: _State, store: RunStore, error: Exception) -> None:
    """Write the record of the row that failed, with its error."""
    done = len(state.run.steps)
    text = in_words(error)
    if done < len(job.plan.rows):
        store.add(done, _failed_row(job.plan.rows[done], job, text))
    store.write(_ended(state.run, "failed", text))


def _failed_row(row: Row, job: Job, error: str) -> StepRecord:
    """Return the record of a failed row, without measurements."""
    step = job.plan.step(row.step)
    return StepRecord(
        step=row.name,
        kind=step.kind,
        role=row.role,
        status="failed",
        key=job.keys[row.step],
        form=str(step.form),
        error=error,
    )


def _relative(artifact: Artifact, cache: Cache) -> str:
    return str(artifact.path.relative_to(cache.root))
