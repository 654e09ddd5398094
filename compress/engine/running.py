"""The run loop: make each row's step, measure it on each target, record it, judge it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from compress.core.artifacts import Artifact
from compress.core.disk.exhaustion import is_exhaustion, resource_errors
from compress.core.errors import ModelError, RunInterrupted, UsageError, error_text
from compress.core.records import COMPLETE_STATUSES, RunRecord, RunStatus, StepRecord, TargetMeasurement
from compress.core.terminal.progress import Progress
from compress.engine.budget import judge_row, measured_values, run_status, shows_disturbed
from compress.engine.early_checks import run_trials, target_warnings
from compress.engine.environment import describe_environment
from compress.engine.excerpts import excerpts, redact_texts, samples_in
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
from compress.store.cache import Cache, FinishedStep
from compress.store.runs import RUNS, RunStore
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import close_all

OnRow = Callable[[RunRecord, StepRecord], None]


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
    folders = (cache.root, store.path, Path(tempfile.gettempdir()))
    with resource_errors(lambda: folders), store.lock(progress, wait=wait):
        finished = _finished_run(store, job, progress)
        if finished is not None:
            for record in finished.steps:
                on_row(finished, record)
            return finished, store
        job.prepare(cache)
        with cache.in_use.protect(job.keys.values()):
            return _Run(job, cache, store, progress).run(on_row, was_interrupted), store


class _Run:
    """Run loop of a job, with its state.

    The caller holds the locks of the run's directory and of its steps in the cache.
    """

    def __init__(self, job: Job, cache: Cache, store: RunStore, progress: Progress) -> None:
        self.job, self.cache, self.store, self.progress = job, cache, store, progress
        self.record = _new_record(job)
        self.made: dict[str, FinishedStep] = {}
        self.from_cache: dict[str, bool] = {}
        self.recorded: set[str] = set()
        """Names of the steps whose seconds are already part of a row."""
        self.measured: dict[str, TargetMeasurement] = {}
        """Measurements by their keys."""
        self.baselines: dict[str, TargetMeasurement] = {}
        """Measurements of the baseline by target label."""

    def run(self, on_row: OnRow, was_interrupted: Callable[[], bool]) -> RunRecord:
        """Make and measure the rows, check their limits, and write the record to the run's directory."""
        started = time.monotonic()
        self.store.begin(self.record)
        try:
            with resource_errors(lambda: (self.cache.root, self.store.path, Path(tempfile.gettempdir()))):
                self._check_early()
                for position in range(len(self.job.plan.rows)):
                    self._add_row(position, was_interrupted)
                    on_row(self.record, self.record.steps[-1])
                self.record = self._finish(time.monotonic() - started)
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, KeyboardInterrupt) and not was_interrupted():
                # On a full disk there may be no space for the record either: raise the original error in any case.
                with suppress(OSError):
                    self._record_failure(error)
                raise
            self.store.write(_with_status(self.record, "interrupted", "stopped by the user"))
            raise RunInterrupted(
                "stopped; the same command resumes from the last checkpoint", where=str(self.store.path)
            ) from None
        finally:
            close_all(self.job.targets, self.progress)
        self.store.write(self.record)
        return self.record

    def _check_early(self) -> None:
        """Check before any training what cannot work, and warn of what gains nothing."""
        for message in target_warnings(self.job):
            self.progress.say(f"warning: {message}")
        # Make the source steps first, so that an unusable model is found before another one is trained.
        for step in self.job.plan.steps:
            if step.kind == SOURCE:
                notes = self._artifact(step.name).facts.get("notes", ())
                self.record = self.record.model_copy(update={"notes": (*self.record.notes, *notes)})
        run_trials(self.job, self.cache, self.progress, self._artifact)

    def _add_row(self, position: int, was_interrupted: Callable[[], bool]) -> None:
        """Make and measure a row, check its limits, and add it to the record."""
        job, row = self.job, self.job.plan.rows[position]
        try:
            record = self._make_and_measure(row)
        except Exception as error:
            # Exhausted resources stop the run even at a row that is only for comparison.
            if row.role != "variant" or is_exhaustion(error) or was_interrupted():
                raise
            record = _failed_row(row, job, error_text(error))
        self.store.add(position, record)
        steps = (*self.record.steps, record)
        limits = judge_row(record, job.plan.profile, steps[0]) if _is_judged(row, job) else ()
        limits = (*self.record.limits, *limits)
        self.record = self.record.model_copy(update={"steps": steps, "limits": limits})
        if position == 0 and (chance_warning := no_better_than_chance(record, self.record.labels)):
            # Warn before hours are spent on passes.
            self.progress.say(f"warning: {chance_warning}")

    def _make_and_measure(self, row: Row) -> StepRecord:
        """Make the steps of a row, measure it on each target, and return its record."""
        job = self.job
        recorded_before = set(self.recorded)
        cached = [self._make(row.step)]
        lowering_steps = {name for name in row.measured.values() if name != row.step}
        cached += [self._make(name) for name in sorted(lowering_steps)]
        measured_before = {one.key for step in self.record.steps for one in step.measurements}
        targets = [target for target in job.targets if row.is_measured_on(target.spec)]
        measurements = tuple(self._measure(row, target) for target in targets)
        if row is job.plan.rows[-1]:
            # Earlier rows are intermediate results; for them the report shows where the limit is exceeded.
            check_memory_limit(measurements)
        finished = self.made[row.step]
        measured_artifact = self.made[row.measured[targets[0].spec.runtime]].artifact
        # A step with its own row is accounted for there, whichever row needs it first.
        counted_elsewhere = recorded_before | ({other.step for other in job.plan.rows} - {row.step})
        step_seconds = {name: self.made[name].seconds for name in _dependencies(row, job) - counted_elsewhere}
        self.recorded |= step_seconds.keys()
        # Curves of steps that prepare this row and have no row of their own.
        new_steps = [name for name in self.made if name not in recorded_before]
        preparing = [name for name in new_steps if step_kind(job.plan.step(name).kind).is_preparation]
        conversions = {name for name in step_seconds if job.plan.step(name).kind == LOWER}
        return StepRecord(
            step=row.name,
            kind=job.plan.step(row.step).kind,
            role=row.role,
            status="cached" if all(cached) else "ok",
            key=job.keys[row.step],
            form=str(measured_artifact.form),
            artifact=_relative(finished.artifact, self.cache),
            measured=_relative(measured_artifact, self.cache),
            model_digest=model_digest(measured_artifact),
            facts={
                **finished.artifact.facts,
                **({"lowering": dict(measured_artifact.facts)} if lowering_steps else {}),
            },
            curves=(*(curve for name in preparing for curve in self.made[name].curves), *finished.curves),
            size=size_of(measured_artifact),
            parameters=finished.artifact.facts["parameters"],
            macs=measured_artifact.facts.get("macs"),
            seconds=sum(step_seconds[name] for name in step_seconds.keys() - conversions),
            lower_seconds=sum(step_seconds[name] for name in conversions),
            # A bundle has the file that was measured before packing, so its measurement is not counted again.
            measure_seconds=sum(one.seconds for one in measurements if one.key not in measured_before),
            measurements=measurements,
            samples=samples_in(finished.artifact) if job.plan.profile.report.excerpts else (),
        )

    def _make(self, name: str) -> bool:
        """Make a step and its inputs; return whether it was in the cache."""
        if name in self.made:
            return name in self.recorded or self.from_cache[name]
        step = self.job.plan.step(name)
        inputs = {role: self._artifact(source) for role, source in step.inputs.items()}
        self.made[name], self.from_cache[name] = make_step(step, self.job, inputs, self.cache, self.progress)
        return self.from_cache[name]

    def _artifact(self, name: str) -> Artifact:
        """Make a step and its inputs; return its artifact."""
        self._make(name)
        return self.made[name].artifact

    def _measure(self, row: Row, target: ResolvedTarget) -> TargetMeasurement:
        """Return the measurement of a row on a target, from the cache or by measuring.

        A disturbed measurement is reused only if it was made during this run, by it or concurrently by another run.
        """
        job, cache = self.job, self.cache
        runtime = target.spec.runtime
        artifact, baseline = (self.made[one.measured[runtime]].artifact for one in (row, job.plan.rows[0]))
        profile = job.plan.profile
        key = measurement_key(
            artifact_digest=artifact.runtime_digest,
            baseline_digest=baseline.runtime_digest,
            fingerprint=target.fingerprint,
            split=job.test_digest,
            spec=profile.measure,
            seed=profile.seed,
            task_parts=job.scoring_parts,
        )
        cached = cache.measurement(key)
        measurement = self.measured.get(key) or (None if cached is None or cached.disturbed else cached)
        if measurement is None:
            with cache.lock(f"measure-{key}", self.progress, f"measuring {row.name}"):
                measurement = cache.measurement(key)
                if measurement is None or measurement == cached:
                    measurement = measure(
                        artifact,
                        baseline,
                        None if row.name == BASELINE else self.baselines[target.label],
                        target,
                        job.task,
                        job.splits.test,
                        profile.measure,
                        seed=profile.seed,
                        key=key,
                        progress=self.progress,
                        reference_folder=cache.references,
                        base=job.loaded.source.base,
                        allow_code=job.allow_code,
                    )
                    job.check_unchanged(models=False, data=True)
                    cache.store_measurement(measurement)
        self.measured[key] = measurement
        # The target's name is not part of the key: another profile may use another name for the same target. The
        # machine follows from the fingerprint, which is part of the key, but older measurements do not contain it.
        measurement = measurement.model_copy(
            update={"target": target.label, "machine": target.machine_digest}
        )
        measurement = redact_texts(measurement, keep=profile.report.excerpts)
        if row.name == BASELINE:
            self.baselines[target.label] = measurement
        return measurement

    def _finish(self, wall_seconds: float) -> RunRecord:
        """Place the bundle with its measured metrics, and return the run with its final status."""
        job, bundle = self.job, None
        deployed_artifact = self.made[job.plan.rows[-1].step].artifact
        if deployed_artifact.form.bundled:
            # Imported here, since a run that is found finished needs no code of the passes.
            from compress.bundles.manifest import write_manifest_metrics

            path = self.store.copy_bundle(deployed_artifact)
            deployed = self.record.steps[-1]
            at_chance = no_better_than_chance(self.record.steps[0]) is not None
            metrics = {
                "metric": job.task.kind.metric.name,
                "target": job.targets[0].label,
                **measured_values(deployed, job.task.kind.quantities, at_chance=at_chance),
                **(
                    {"latency_disturbed": True} if shows_disturbed(deployed, job.task.kind.quantities) else {}
                ),
            }
            write_manifest_metrics(path, metrics, job.loaded.source.text_with_overrides, job.run_id)
            bundle = str(path)
        steps = self.record.steps
        texts = excerpts(steps[0], steps[-1], job.splits.test) if job.plan.profile.report.excerpts else {}
        run = _with_status(self.record, run_status(self.record.limits), None)
        return run.model_copy(update={"bundle": bundle, "excerpts": texts, "wall_seconds": wall_seconds})

    def _record_failure(self, error: Exception) -> None:
        """Write the record of the row that failed, with its error."""
        done = len(self.record.steps)
        text = error_text(error)
        if done < len(self.job.plan.rows):
            self.store.add(done, _failed_row(self.job.plan.rows[done], self.job, text))
        self.store.write(_with_status(self.record, "failed", text))


def _finished_run(store: RunStore, job: Job, progress: Progress) -> RunRecord | None:
    """Return the run of this plan if it is complete, undisturbed, and its records and bundle are intact; else None."""
    if not (store.path / "run.json").is_file():
        return None
    try:
        run = store.load()
    except UsageError as error:
        progress.say(f"{store.path}: {error.message}; they are written again")
        return None
    complete = [step.step for step in run.steps] == [row.name for row in job.plan.rows]
    if run.status not in COMPLETE_STATUSES or not complete:
        return None
    if any(one.disturbed for step in run.steps for one in step.measurements):
        # Disturbed measurements are repeated, since the machine may be quiet now.
        return None
    if run.bundle is None:
        return run
    bundle = Path(run.bundle)
    if not bundle.is_dir():
        return None
    if not _is_intact(bundle):
        progress.say(f"{bundle}: this bundle is damaged; it is written again")
        return None
    return run


def _is_intact(bundle: Path) -> bool:
    """Whether the files of a bundle match its manifest; additional files are ignored."""
    from compress.bundles.verify import changed_files, listed_files, read_manifest

    try:
        return not changed_files(bundle, listed_files(bundle, read_manifest(bundle)))
    except ModelError:
        return False


def _new_record(job: Job) -> RunRecord:
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
        profile_text=job.loaded.source.text_with_overrides,
        environment=describe_environment(job.numerics, job.targets),
        targets=tuple(target.label for target in job.targets),
        steps=(),
        notes=splits.notes,
    )


def _dependencies(row: Row, job: Job) -> set[str]:
    """Return all steps that a row depends on."""
    needed, pending = set[str](), [row.step, *row.measured.values()]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += job.plan.step(name).inputs.values()
    return needed


def _is_judged(row: Row, job: Job) -> bool:
    return row is job.plan.rows[-1] or (job.plan.profile.budget.judge == "each" and row.role == "step")


def _with_status(run: RunRecord, status: RunStatus, error: str | None) -> RunRecord:
    seconds = sum(step.seconds + step.lower_seconds + step.measure_seconds for step in run.steps)
    return run.model_copy(update={"status": status, "seconds": seconds, "error": error})


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
