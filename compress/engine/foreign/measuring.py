"""Measurement of an ONNX file, alone or against another one, recorded as a regular run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import yaml

from compress.core.artifacts import Artifact
from compress.core.disk.exhaustion import resource_errors
from compress.core.disk.files import digest_of
from compress.core.disk.watched import FileDigests
from compress.core.errors import RunInterrupted, UsageError, error_text
from compress.core.numerics import local_numerics
from compress.core.records import Role, RunRecord, StepRecord, TargetMeasurement
from compress.core.terminal.progress import Progress
from compress.data.sources import load as load_data
from compress.data.splits import Splits
from compress.engine.contents import examples_digest
from compress.engine.environment import describe_environment
from compress.engine.foreign.interfaces import check_fixed_sizes, check_positions
from compress.engine.foreign.onnx_file import ImportedModel, ModelSettings, for_baseline, import_model
from compress.engine.resolve import check_judge_code, scoring_key_parts
from compress.measuring.artifact import measure
from compress.measuring.identity import model_digest
from compress.measuring.keys import measurement_key
from compress.measuring.memory_limit import check_memory_limit
from compress.planning.steps import BASELINE
from compress.profile.measure_request import MeasureRequest
from compress.store.runs import RUNS, RunStore
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import close_all, resolve_all
from compress.tasks.base import task_of
from compress.tasks.table import task_kind

MODEL = "model"
"""Step name of a model that is measured against a baseline."""

OnRow = Callable[[RunRecord, StepRecord], None]


@dataclass(frozen=True)
class _Session:
    """State shared by all rows of one measurement."""

    request: MeasureRequest
    base: Path
    splits: Splits
    targets: tuple[ResolvedTarget, ...]
    progress: Progress
    allow_code: bool

    @cached_property
    def scoring_parts(self) -> dict[str, object]:
        """Parts of the measurement key that determine scoring, besides the test split."""
        return scoring_key_parts(self.request.task, self.request.data, self.base, FileDigests())


def measure_files(
    model: Path,
    baseline: Path | None,
    settings: ModelSettings,
    request: MeasureRequest,
    base: Path,
    folder: Path,
    progress: Progress,
    on_row: OnRow,
    *,
    allow_code: bool = False,
) -> tuple[RunRecord, RunStore]:
    """Measure an ONNX file on the test split, in alternation with a baseline; without one, against itself.

    The cache is not used, since a repeated measurement is meant to measure again. The run of an equal request is
    replaced.

    Args:
        model: an ONNX file, or the folder of a bundle or an artifact.
        baseline: the model to compare with, in the same forms.
        settings: what the user specifies beyond the files.
        request: task, data, targets and settings of the measurement.
        base: the folder that relative paths of the data are resolved against.
        folder: the working folder; the run's directory is `runs/<id>/` in it.
        progress: receives progress bars and messages.
        on_row: called with each finished row.
        allow_code: whether code of the user that judges answers may run.

    Raises:
        UsageError: a target does not use onnxruntime, or code is needed and not allowed.
        DataError, ModelError, TargetError: something cannot be used as declared.
        RunInterrupted: the user stopped the measurement.
    """
    if any(target.runtime != "onnxruntime" for target in request.targets):
        raise UsageError("an ONNX file runs on onnxruntime, not on torch", where="--target")
    started = time.monotonic()
    check_judge_code(request.data, base, allow_code=allow_code)
    targets = resolve_all(request.targets, request.measure.patience_s)
    splits = load_data(request.data, base, request.seed, request.task)
    session = _Session(request, base, splits, targets, progress, allow_code)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="compress-measured-"))
        models = [_import_checked(model, settings, session, Path(scratch) / MODEL)]
        if baseline is not None:
            models.insert(
                0,
                _import_checked(
                    baseline, for_baseline(settings, baseline), session, Path(scratch) / BASELINE
                ),
            )
        run = _new_run(session, models)
        store = RunStore(folder / RUNS / run.run)
        stack.enter_context(store.lock(progress))
        store.begin(run)
        try:
            with resource_errors(lambda: (store.path, Path(tempfile.gettempdir()))):
                for position, imported in enumerate(models):
                    record = _measure_row(imported, models[0], run.steps[0] if run.steps else None, session)
                    if imported is models[-1]:
                        check_memory_limit(record.measurements)
                    store.add(position, record)
                    run = run.model_copy(update={"steps": (*run.steps, record)})
                    on_row(run, record)
        except (Exception, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt)
            update = {
                "status": "interrupted" if stopped else "failed",
                "error": "stopped" if stopped else error_text(error),
            }
            # On a full disk there may be no space for the record either: raise the original error in any case.
            with suppress(OSError):
                store.write(run.model_copy(update=update))
            if stopped:
                raise RunInterrupted("stopped", where=str(store.path)) from None
            raise
        finally:
            close_all(targets, progress)
        seconds = time.monotonic() - started
        run = run.model_copy(update={"status": "ok", "seconds": seconds, "wall_seconds": seconds})
        store.write(run)
    return run, store


def _import_checked(model: Path, settings: ModelSettings, session: _Session, folder: Path) -> ImportedModel:
    request = session.request
    imported = import_model(
        model, settings, request.task, session.splits.labels, request.data.max_length, folder
    )
    check_fixed_sizes(imported.file, imported.fixed_sizes, request.targets)
    check_positions(imported.file, imported.positions, request.targets, request.task)
    return imported


def _new_run(session: _Session, models: list[ImportedModel]) -> RunRecord:
    request, splits = session.request, session.splits
    description = {
        "measured": str(models[-1].file.absolute()),
        "baseline": str(models[0].file.absolute()) if len(models) > 1 else None,
        **request.model_dump(mode="json", exclude_defaults=True),
    }
    run_key_parts = [
        [model.artifact.digest for model in models],
        [target.fingerprint for target in session.targets],
        examples_digest(splits.test),
        {**request.model_dump(mode="json"), "measure": request.measure.identity()},
        *filter(None, (session.scoring_parts,)),
    ]
    digest = digest_of(run_key_parts)
    return RunRecord(
        run=f"{request.name}-{digest[:12]}",
        profile=request.name,
        task=request.task,
        metric=task_kind(request.task).metric.name,
        status="running",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        labels=splits.labels,
        splits={"test": len(splits.test)},
        seed=request.seed,
        profile_text=yaml.safe_dump(description, sort_keys=False, allow_unicode=True),
        environment=describe_environment(local_numerics(), session.targets),
        targets=tuple(target.label for target in session.targets),
        steps=(),
        notes=(*splits.notes, *_fixed_notes(models), *_label_notes(models, splits)),
    )


def _fixed_notes(models: list[ImportedModel]) -> list[str]:
    """Return notes on the fixed input sizes of the models."""
    return [
        f"{model.file.name} {description}."
        for model in models
        if (description := model.fixed_sizes.describe()) is not None
    ]


def _label_notes(models: list[ImportedModel], splits: Splits) -> list[str]:
    """Return notes on models with more labels than the data, whose predictions are restricted to those of the data."""
    return [
        f"{model.file.name} has {model.labels} labels, the data has {len(splits.labels)} of them: answers are "
        "compared among those."
        for model in models
        if model.labels is not None
    ]


def _measure_row(
    model: ImportedModel, baseline: ImportedModel, baseline_record: StepRecord | None, session: _Session
) -> StepRecord:
    """Measure a file on each target; `baseline_record` is the record of the baseline, None if this is the baseline."""
    measurements = []
    for index, target in enumerate(session.targets):
        baseline_measurement = None if baseline_record is None else baseline_record.measurements[index]
        measurements.append(
            _measure(model.artifact, baseline.artifact, baseline_measurement, target, session)
        )
    role: Role = "baseline" if baseline_record is None else "step"
    return StepRecord(
        step=BASELINE if baseline_record is None else MODEL,
        kind="measure",
        role=role,
        status="ok",
        key=model.artifact.digest,
        form="onnx" if model.form is None else str(model.form),
        artifact=str(model.file.absolute()),
        measured=str(model.file.absolute()),
        model_digest=model_digest(model.artifact, model.model_files),
        facts={**model.facts, **({"fixed": fixed} if (fixed := model.fixed_sizes.facts()) else {})},
        size=model.size,
        parameters=model.facts.get("parameters"),
        macs=model.facts.get("macs"),
        measure_seconds=sum(one.seconds for one in measurements),
        measurements=tuple(measurements),
    )


def _measure(
    artifact: Artifact,
    baseline: Artifact,
    baseline_measurement: TargetMeasurement | None,
    target: ResolvedTarget,
    session: _Session,
) -> TargetMeasurement:
    request, test = session.request, session.splits.test
    key = measurement_key(
        # Digest of all files, since external weights may have any name.
        artifact_digest=artifact.digest,
        baseline_digest=baseline.digest,
        fingerprint=target.fingerprint,
        split=examples_digest(test),
        spec=request.measure,
        seed=request.seed,
        task_parts=session.scoring_parts,
    )
    return measure(
        artifact,
        baseline,
        baseline_measurement,
        target,
        task_of(request.task, request.data),
        test,
        request.measure,
        seed=request.seed,
        key=key,
        progress=session.progress,
        base=session.base,
        allow_code=session.allow_code,
    )
