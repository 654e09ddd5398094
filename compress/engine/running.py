"""The loop: make each row's step, measure it on each target, record it, judge it."""

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
from compress.engine.environment import describe_environment
from compress.engine.excerpts import excerpts, samples_in, with_texts
from compress.engine.making import make_step
from compress.engine.resolve import Job
from compress.engine.trials import target_warnings, try_untrained
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
    """What the loop has so far."""

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
    """Run a resolved job to its end, from wherever an earlier run of the same plan stopped.

    A row that is there for comparison only (role `variant`) and fails is recorded with its error, and the run goes on:
    nothing is made of it.

    Args:
        job: what to run.
        cache: where artifacts and measurements are found and kept.
        folder: the working folder; the run's directory is `runs/<id>/` in it.
        progress: where bars and messages go.
        on_row: called with each finished row.
        was_interrupted: whether the user asked to stop; libraries turn a KeyboardInterrupt into errors of their own.

    Returns:
        The finished run and its directory.

    Raises:
        CompressError: a step failed; the run's directory says which and why.
        RunInterrupted: the user stopped the run.
    """
    store = RunStore(folder / RUNS / job.run_id)
    # Machines that train together run at the same time: they cannot wait for each other.
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
    """The loop itself; the caller holds the run's directory, and its steps in the cache."""
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
                    # What a full disk stops is told as such, also where the row is for comparison only.
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
                    # Before hours go into what is made of it.
                    progress.say(f"warning: {useless}")
                on_row(state.run, record)
            state.run = _finish(job, state, store, time.monotonic() - began)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt) and not was_interrupted():
            # Where the disk is full there may be no space for the record either: the error is told all the same.
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
    """The run of this plan if it was finished before, with its records and its bundle as they were left."""
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
        # What was disturbed is measured again: the machine may be quiet now.
        return None
    if run.bundle is None:
        return run
    # Beside the record, not where the record says: a working folder may have been moved or copied.
    bundle = store.path / BUNDLE
    if not bundle.is_dir():
        return None
    if not _is_whole(bundle):
        progress.say(f"{bundle}: this bundle is damaged; it is written again")
        return None
    return run.model_copy(update={"bundle": str(bundle)})


def _is_whole(bundle: Path) -> bool:
    """Whether the files of a bundle are those of its manifest; what somebody put beside them does not count."""
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
    """Make the sources first: a model that nobody can use is refused before another is trained."""
    for step in job.plan.steps:
        if step.kind == SOURCE:
            _make(step.name, job, state, cache, progress)
            notes = state.made[step.name].artifact.facts.get("notes", ())
            state.run = state.run.model_copy(update={"notes": (*state.run.notes, *notes)})


def _row(row: Row, job: Job, state: _State, cache: Cache, progress: Progress) -> StepRecord:
    """Make what a row needs, measure it on each target, and say all that in one record."""
    before = set(state.recorded)
    cached = [_make(row.step, job, state, cache, progress)]
    lowered = {name for name in row.measured.values() if name != row.step}
    cached += [_make(name, job, state, cache, progress) for name in sorted(lowered)]
    measured_before = {one.key for step in state.run.steps for one in step.measurements}
    targets = [target for target in job.targets if row.is_measured_on(target.spec)]
    measurements = tuple(_measure(row, target, job, state, cache, progress) for target in targets)
    if row is job.plan.rows[-1]:
        # The rows before it are on the way to what is deployed: the report says where they need too much.
        check_memory_limit(measurements)
    made = state.made[row.step]
    first = state.made[row.measured[targets[0].spec.runtime]].artifact
    # A step that has a row of its own is told there, whoever needs it first.
    told = before | ({other.step for other in job.plan.rows} - {row.step})
    work = {name: state.made[name].seconds for name in _needed(row, job) - told}
    state.recorded |= work.keys()
    # What prepares this row is a step without a row of its own.
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
        # A bundle runs the file that was measured before it was packed: that time is spent once.
        measure_seconds=sum(one.seconds for one in measurements if one.key not in measured_before),
        measurements=measurements,
        samples=samples_in(made.artifact) if job.plan.profile.report.excerpts else (),
    )


def _make(name: str, job: Job, state: _State, cache: Cache, progress: Progress) -> bool:
    """Make a step and whatever it takes; whether it was in the cache."""
    if name in state.made:
        return name in state.recorded or state.cached[name]
    step = job.plan.step(name)
    for needed in step.inputs.values():
        _make(needed, job, state, cache, progress)
    inputs = {role: state.made[source].artifact for role, source in step.inputs.items()}
    state.made[name], state.cached[name] = make_step(step, job, inputs, cache, progress)
    return state.cached[name]


def _made(name: str, job: Job, state: _State, cache: Cache, progress: Progress) -> Artifact:
    """The artifact of a step, made with whatever it takes."""
    _make(name, job, state, cache, progress)
    return state.made[name].artifact


def _needed(row: Row, job: Job) -> set[str]:
    """The steps that a row is made of, whichever made them first."""
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
    """The measurement of a row on a target, from the cache or made now.

    One that was disturbed is believed only if it was made during this run: by it, or by another one meanwhile.
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
    # Names are not part of the key: the same processor may be called otherwise in another profile. The machine is
    # that of the fingerprint, which is; what was measured before it was kept does not name it.
    measurement = measurement.model_copy(update={"target": target.label, "machine": target.machine})
    measurement = with_texts(measurement, shown=profile.report.excerpts)
    if row.name == BASELINE:
        state.baselines[target.label] = measurement
    return measurement


def _is_judged(row: Row, job: Job) -> bool:
    return row is job.plan.rows[-1] or (job.plan.profile.budget.judge == "each" and row.role == "step")


def _finish(job: Job, state: _State, store: RunStore, wall_seconds: float) -> RunRecord:
    """Place the bundle, with what was measured of it, and say how the run ended."""
    bundle = None
    last = state.made[job.plan.rows[-1].step].artifact
    if last.form.bundled:
        # Imported here: a run that is found finished needs nothing of the passes.
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
    """Leave the record of the row that failed, and its error."""
    done = len(state.run.steps)
    text = in_words(error)
    if done < len(job.plan.rows):
        store.add(done, _failed_row(job.plan.rows[done], job, text))
    store.write(_ended(state.run, "failed", text))


def _failed_row(row: Row, job: Job, error: str) -> StepRecord:
    """The record of a row without figures, with its error."""
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
