"""Python API of the command line: functions return what a command would show and raise what it would report.

Heavy libraries are imported when a function needs them, so that `import compress` is fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from compress.bundles.verify import Verification
    from compress.core.records import RunRecord, StepRecord
    from compress.core.terminal.progress import Progress
    from compress.engine.examining import Examination
    from compress.engine.explain_plan import PlanRow
    from compress.profile.load import LoadedProfile
    from compress.reporting.render.write import ReportPaths

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """A run or a measured model, with its directory `runs/<id>/`; notebooks show its report."""

    record: RunRecord
    path: Path
    report: ReportPaths | None = None
    """The report that was written; None for a run that was loaded."""

    @property
    def status(self) -> str:
        """`ok`, `budget_missed` or `not_judged`; `failed`, `interrupted` or `running` if it did not complete."""
        return self.record.status

    @property
    def rows(self) -> pd.DataFrame:
        """One row per step, from the baseline to the deployed model, with the columns of `rows.csv`."""
        from compress.reporting.data.frame import rows

        return rows(self.record)

    @property
    def bundle(self) -> Path | None:
        """The folder to deploy; None if nothing was exported."""
        from compress.store.runs import BUNDLE

        folder = self.path / BUNDLE
        return folder if folder.is_dir() else None

    def _repr_html_(self) -> str:
        # Imported here, since its table of entities would dominate the time of `import compress`.
        from html import escape

        from compress.reporting.render.html import html as page
        from compress.reporting.sections.content import document

        page_html = escape(page(document(self.record)), quote=True)
        return f'<iframe srcdoc="{page_html}" style="width: 100%; height: 40em; border: 0"></iframe>'


def load_profile(profile: StrPath, assignments: Sequence[str] = ()) -> LoadedProfile:
    """Read and check a profile; nothing is downloaded and nothing in it is executed.

    Args:
        assignments: `path=value` overrides, as `--set` takes them.

    Raises:
        ProfileError: every fault that was found, with its line.
    """
    from compress.profile.load import load_profile as load

    return load(Path(profile), tuple(assignments))


def validate(profile: StrPath, assignments: Sequence[str] = ()) -> Examination:
    """Check a profile and every source it names that is on this machine; return the faults and what was checked.

    Raises:
        ProfileError: the file is not readable YAML.
    """
    from compress.engine.examining import examine

    return examine(Path(profile), tuple(assignments))


def plan(profile: StrPath | LoadedProfile, assignments: Sequence[str] = ()) -> list[PlanRow]:
    """Return the steps of a profile in order, and for each whether it is cached and, if not, why.

    Raises:
        ProfileError: every fault of the profile.
    """
    from compress.engine.explain_plan import explain_plan

    return explain_plan(_ensure_loaded(profile, assignments))


def run(
    profile: StrPath | LoadedProfile,
    assignments: Sequence[str] = (),
    *,
    allow_code: bool = False,
    quiet: bool = False,
    on_row: Callable[[RunRecord, StepRecord], None] | None = None,
    was_interrupted: Callable[[], bool] = lambda: False,
) -> Run:
    """Run a profile: its passes with the measurements after each, the report, the bundle.

    Runs and reports are written to the working folder; results of earlier runs of the same steps are reused. A missed
    budget does not raise; it is a status of the run.

    Args:
        profile: the file or the loaded profile.
        assignments: `path=value` overrides, as `--set` takes them.
        allow_code: whether the Python code that the profile names may run.
        quiet: show no progress.
        on_row: called with each finished row.
        was_interrupted: returns whether the user asked to stop, if that is not signaled by a KeyboardInterrupt.

    Raises:
        CompressError: the profile has faults, or a step failed; the run's directory and report contain the details.
    """
    from compress.core.errors import CompressError
    from compress.engine.resolve import resolve_job
    from compress.engine.running import run_job
    from compress.store.cache import Cache

    loaded, progress = _ensure_loaded(profile, assignments), _progress(quiet)
    job = resolve_job(loaded, allow_code=allow_code)
    for note in (*(f"warning: {one}" for one in loaded.warnings), *job.splits.notes):
        progress.say(note)
    try:
        record, store = run_job(
            job, Cache.default(), Path.cwd(), progress, on_row or _ignore_row, was_interrupted
        )
    except Exception as error:
        # On a full disk there is no space for a report either, and old records may be damaged: raise the original error
        # in any case.
        with suppress(OSError, CompressError):
            _report_failed(error, job.run_id)
        raise
    return Run(record, store.path, report(Run(record, store.path)))


def load_run(name: StrPath) -> Run:
    """Load a run of the working folder.

    Args:
        name: its id, its folder, or the name of a profile, for its newest run.

    Raises:
        UsageError: there is no such run, or its records cannot be read.
    """
    from compress.store.runs import RUNS, find_run

    store = find_run(os.fspath(name), Path.cwd() / RUNS)
    return Run(store.load(), store.path)


def report(run: Run | StrPath, out: StrPath | None = None) -> ReportPaths:
    """Write the report of a run (again): HTML, Markdown, CSV and JSON.

    Args:
        run: a run, or its name as in `load_run`.
        out: the folder; `reports/<profile>/` in the working folder if unset.

    Raises:
        UsageError: there is no such run, or its records cannot be read.
    """
    from compress.core.disk.reading import content_errors
    from compress.core.errors import UsageError
    from compress.reporting.render.write import report_folder, write_report

    loaded_run = run if isinstance(run, Run) else load_run(run)
    with content_errors("the records of this run", str(loaded_run.path), UsageError):
        folder = report_folder(loaded_run.record, Path.cwd()) if out is None else Path(out)
        return write_report(loaded_run.record, folder)


def measure(
    model: StrPath,
    data: StrPath | None = None,
    *,
    profile: StrPath | LoadedProfile | None = None,
    task: str | None = None,
    targets: Sequence[Mapping[str, Any]] = (),
    baseline: StrPath | None = None,
    tokenizer: StrPath | None = None,
    task_json: StrPath | None = None,
    labels: Sequence[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    output: str | None = None,
    name: str | None = None,
    assignments: Sequence[str] = (),
    allow_code: bool = False,
    quiet: bool = False,
    on_row: Callable[[RunRecord, StepRecord], None] | None = None,
) -> Run:
    """Measure any ONNX model with the protocol of a run: accuracy, latency, memory, size.

    Args:
        model: an ONNX file, or the folder of a bundle or an artifact.
        data: as `data.path` of a profile; its test split is used.
        profile: profile to take task, data, seed, targets and `measure` from.
        task: the task; taken from the model's `task.json` if unset.
        targets: as in a profile.
        baseline: the model to compare with, in the same forms as `model`; the model itself if unset.
        tokenizer: folder with the `tokenizer.json`, if the model has none beside it.
        task_json: folder with the `task.json`, if the model has none beside it.
        labels: names of the outputs, in order.
        inputs: the model's name of an input, by the standard name (`input_ids`).
        output: the output to read; the first if unset.
        name: name of the run; derived from the file if unset.
        assignments: `path=value` overrides, such as `data.text_column=review`.
        allow_code: whether the Python code that the data names for judging answers may run.
        quiet: show no progress.
        on_row: called with each finished row.

    Raises:
        UsageError, ProfileError: the settings of the measurement are missing or wrong.
        DataError, ModelError, TargetError: something cannot be used as declared.
    """
    from compress.engine.foreign.measuring import measure_files
    from compress.engine.foreign.onnx_file import model_settings, task_of_file
    from compress.profile.measure_request import build_request, measure_sections, run_name

    settings = model_settings(
        _optional_path(tokenizer), _optional_path(task_json), labels, inputs or {}, output
    )
    values: dict[str, Any] = {"name": name or run_name(Path(model))}
    base = Path.cwd()
    if profile is not None:
        loaded = _ensure_loaded(profile, ())
        values, base = values | measure_sections(loaded.profile), loaded.source.base
    if data is not None:
        local = Path.cwd() / data
        values["data"] = {**values.get("data", {}), "path": str(local if local.exists() else data)}
    task_name = task or values.get("task") or task_of_file(Path(model), settings)
    request = build_request(
        {**values, "task": task_name} if task_name else values, targets, assignments, base
    )
    record, store = measure_files(
        Path(model),
        _optional_path(baseline),
        settings,
        request,
        base,
        Path.cwd(),
        _progress(quiet),
        on_row or _ignore_row,
        allow_code=allow_code,
    )
    return Run(record, store.path, report(Run(record, store.path)))


def verify(bundle: StrPath, *, allow_code: bool = False) -> Verification:
    """Check every hash of a bundle and run its golden examples in a clean process.

    Args:
        bundle: the folder of the bundle.
        allow_code: run the bundle's code even if it is not compress's own.
    """
    from compress.bundles.verify import verify_bundle

    return verify_bundle(Path(bundle), allow_code=allow_code)


def load_model(folder: StrPath, *, allow_code: bool = False) -> nn.Module:
    """Load the model of a folder with `model.safetensors`, in float32 and eval mode, for inference or further training.

    Reads any torch-form folder that `compress` wrote, including models that are pruned or factored in ways that a
    config cannot express, which `from_pretrained` of transformers cannot load.

    Args:
        folder: an artifact of a pass: `config.json` or `module.json`, and `structure.json` if the model is pruned or
            factored.
        allow_code: whether the Python code that a `module.json` of the folder names may run.

    Raises:
        UsageError: the model is built by code, which is not allowed.
        ModelError: a file is missing or damaged, or a weight does not fit.
    """
    from compress.models.io.checkpoints import load_model as load

    return load(Path(folder), allow_code=allow_code)


def _ensure_loaded(profile: StrPath | LoadedProfile, assignments: Sequence[str]) -> LoadedProfile:
    if isinstance(profile, str | os.PathLike):
        return load_profile(profile, assignments)
    if assignments:
        raise ValueError("assignments change a profile while it is read: give them to `load_profile`")
    return profile


def _optional_path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _progress(quiet: bool) -> Progress:
    from compress.core.terminal.progress import SilentProgress

    if quiet:
        return SilentProgress()
    from compress.core.terminal.console import Terminal, TerminalProgress

    return TerminalProgress(Terminal(stderr=True))


def _ignore_row(run: RunRecord, record: StepRecord) -> None:
    """Default of `on_row`."""


def _report_failed(error: Exception, run_id: str) -> None:
    """Write the report of a failed run, with its finished steps and the error."""
    from compress.core.errors import RunInterrupted
    from compress.store.runs import RUNS, RunStore

    path = Path.cwd() / RUNS / run_id
    if not isinstance(error, RunInterrupted) and (path / "run.json").is_file():
        record = RunStore(path).load()
        if record.steps:
            report(Run(record, path))
