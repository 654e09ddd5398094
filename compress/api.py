"""What the command line does, as functions: they return what it would show, and raise what it would say.

Heavy libraries are imported when a function needs them, so that `import compress` costs nothing.
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
    from compress.engine.examining import Examined
    from compress.engine.explain_plan import PlanRow
    from compress.profile.load import LoadedProfile
    from compress.reporting.render.write import ReportPaths

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """A run, or a measured model, with its directory `runs/<id>/`; in a notebook it shows its report."""

    record: RunRecord
    path: Path
    report: ReportPaths | None = None
    """The report that was written; None for a run that was loaded."""

    @property
    def status(self) -> str:
        """`ok`, `budget_missed` or `not_judged`; `failed`, `interrupted` or `running` where it did not end well."""
        return self.record.status

    @property
    def rows(self) -> pd.DataFrame:
        """One row a step, the baseline first and what is deployed last, with the columns of `rows.csv`."""
        from compress.reporting.data.frame import rows

        return rows(self.record)

    @property
    def bundle(self) -> Path | None:
        """The folder to deploy; None where nothing was exported."""
        from compress.store.runs import BUNDLE

        folder = self.path / BUNDLE
        return folder if folder.is_dir() else None

    def _repr_html_(self) -> str:
        # Here, for its table of entities is most of what `import compress` would take.
        from html import escape

        from compress.reporting.render.html import html as page
        from compress.reporting.sections.content import document

        whole = escape(page(document(self.record)), quote=True)
        return f'<iframe srcdoc="{whole}" style="width: 100%; height: 40em; border: 0"></iframe>'


def load_profile(profile: StrPath, assignments: Sequence[str] = ()) -> LoadedProfile:
    """Read and check a profile; nothing is downloaded and nothing in it is executed.

    Args:
        assignments: `path=value` overrides, as `--set` takes them.

    Raises:
        ProfileError: every fault that was found, with its line.
    """
    from compress.profile.load import load_profile as load

    return load(Path(profile), tuple(assignments))


def validate(profile: StrPath, assignments: Sequence[str] = ()) -> Examined:
    """Check a profile and every source it names that lies on this machine: the faults, and what was looked at.

    Raises:
        ProfileError: the file is no YAML that can be read.
    """
    from compress.engine.examining import examine

    return examine(Path(profile), tuple(assignments))


def plan(profile: StrPath | LoadedProfile, assignments: Sequence[str] = ()) -> list[PlanRow]:
    """The steps of a profile in their order, and for each whether it is cached and, if not, why.

    Raises:
        ProfileError: every fault of the profile.
    """
    from compress.engine.explain_plan import explain_plan

    return explain_plan(_loaded(profile, assignments))


def run(
    profile: StrPath | LoadedProfile,
    assignments: Sequence[str] = (),
    *,
    allow_code: bool = False,
    quiet: bool = False,
    on_row: Callable[[RunRecord, StepRecord], None] | None = None,
    was_interrupted: Callable[[], bool] = lambda: False,
) -> Run:
    """Run a profile: its passes, the measuring after each, the report, the bundle. A missed budget is a status.

    Runs and reports are written into the working folder; what an earlier run of the same plan made is taken over.

    Args:
        allow_code: whether the Python code that the profile names may run.
        quiet: show no progress.
        on_row: called with each finished row.
        was_interrupted: whether the user asked to stop, where that is not told by a KeyboardInterrupt.

    Raises:
        CompressError: the profile has faults, or a step failed; the run's directory and report say which and why.
    """
    from compress.core.errors import CompressError
    from compress.engine.resolve import resolve_job
    from compress.engine.running import run_job
    from compress.store.cache import Cache

    loaded, progress = _loaded(profile, assignments), _progress(quiet)
    job = resolve_job(loaded, allow_code=allow_code)
    for note in (*(f"warning: {one}" for one in loaded.warnings), *job.splits.notes):
        progress.say(note)
    try:
        record, store = run_job(
            job, Cache.default(), Path.cwd(), progress, on_row or _nothing, was_interrupted
        )
    except Exception as error:
        # Where the disk is full there is no space for a report either, and records of before may be damaged: the error
        # is told all the same.
        with suppress(OSError, CompressError):
            _report_failed(error, job.run_id)
        raise
    return Run(record, store.path, report(Run(record, store.path)))


def load_run(name: StrPath) -> Run:
    """A run of the working folder.

    Args:
        name: its id, its folder, or the name of a profile, whose last run is taken.

    Raises:
        UsageError: there is no such run, or its records cannot be understood.
    """
    from compress.store.runs import RUNS, find_run

    store = find_run(os.fspath(name), Path.cwd() / RUNS)
    return Run(store.load(), store.path)


def report(run: Run | StrPath, out: StrPath | None = None) -> ReportPaths:
    """Write the report of a run (again): HTML, Markdown, CSV and JSON.

    Args:
        run: a run, or what names one for `load_run`.
        out: the folder; `reports/<profile>/` of the working folder if unset.

    Raises:
        UsageError: there is no such run, or its records cannot be understood.
    """
    from compress.core.disk.reading import understood
    from compress.core.errors import UsageError
    from compress.reporting.render.write import report_folder, write_report

    found = run if isinstance(run, Run) else load_run(run)
    with understood("the records of this run", str(found.path), UsageError):
        folder = report_folder(found.record, Path.cwd()) if out is None else Path(out)
        return write_report(found.record, folder)


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
    """Measure an ONNX model, ours or not, by the protocol of a run: accuracy, latency, memory, size.

    Args:
        model: an ONNX file, or the folder of a bundle or an artifact; `baseline`, which it is compared with, too.
        data: as `data.path` of a profile; its test split is used.
        profile: where task, data, seed, targets and `measure` are taken from.
        task: unset: what the model's `task.json` says.
        targets: as in a profile.
        tokenizer: folder with the `tokenizer.json` of a model that has none beside it; `task_json` alike.
        labels: what the outputs stand for, in order.
        inputs: what the model calls an input, by our name (`input_ids`).
        output: the output to read; unset: the first.
        name: what the run is called; unset: after the file.
        assignments: `path=value`, as `data.text_column=review`.
        allow_code: let the Python code that the data names run, which judges answers.
        quiet: show no progress.
        on_row: called with each finished row.

    Raises:
        UsageError, ProfileError: it is not said on what to measure, or wrongly.
        DataError, ModelError, TargetError: something cannot be used as declared.
    """
    from compress.engine.foreign.measuring import measure_files
    from compress.engine.foreign.onnx_file import given_for, task_of_file
    from compress.profile.measure_request import name_of, request_of, sections

    given = given_for(_path(tokenizer), _path(task_json), labels, inputs or {}, output)
    values: dict[str, Any] = {"name": name or name_of(Path(model))}
    base = Path.cwd()
    if profile is not None:
        loaded = _loaded(profile, ())
        values, base = values | sections(loaded.profile), loaded.source.base
    if data is not None:
        here = Path.cwd() / data
        values["data"] = {**values.get("data", {}), "path": str(here if here.exists() else data)}
    wanted = task or values.get("task") or task_of_file(Path(model), given)
    request = request_of({**values, "task": wanted} if wanted else values, targets, assignments, base)
    record, store = measure_files(
        Path(model),
        _path(baseline),
        given,
        request,
        base,
        Path.cwd(),
        _progress(quiet),
        on_row or _nothing,
        allow_code=allow_code,
    )
    return Run(record, store.path, report(Run(record, store.path)))


def verify(bundle: StrPath, *, allow_code: bool = False) -> Verification:
    """Check every hash of a bundle and run its golden examples in a clean process.

    Args:
        allow_code: run the bundle's code also where it is none of ours.
    """
    from compress.bundles.verify import verify_bundle

    return verify_bundle(Path(bundle), allow_code=allow_code)


def load_model(folder: StrPath, *, allow_code: bool = False) -> nn.Module:
    """The model of a folder with `model.safetensors`, in float32 and eval mode, ready to predict or to train on.

    It reads any torch-form folder that `compress` wrote, also of a model that is pruned or factored in ways that its
    config cannot say, where `from_pretrained` of transformers does not serve.

    Args:
        folder: an artifact of a pass: `config.json` or `module.json`, and `structure.json` where the model is pruned or
            factored.
        allow_code: whether the Python code that a `module.json` of the folder names may run.

    Raises:
        UsageError: the model is made by code, and that is not allowed.
        ModelError: a file is missing or damaged, or a weight does not fit.
    """
    from compress.models.io.checkpoints import load_model as load

    return load(Path(folder), allow_code=allow_code)


def _loaded(profile: StrPath | LoadedProfile, assignments: Sequence[str]) -> LoadedProfile:
    if isinstance(profile, str | os.PathLike):
        return load_profile(profile, assignments)
    if assignments:
        raise ValueError("assignments change a profile while it is read: give them to `load_profile`")
    return profile


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _progress(quiet: bool) -> Progress:
    from compress.core.terminal.progress import Silent

    if quiet:
        return Silent()
    from compress.core.terminal.console import Terminal, TerminalProgress

    return TerminalProgress(Terminal(stderr=True))


def _nothing(run: RunRecord, record: StepRecord) -> None:
    """Nobody asked for the rows."""


def _report_failed(error: Exception, run_id: str) -> None:
    """A failed run has a report too: the steps that were done, and the error."""
    from compress.core.errors import RunInterrupted
    from compress.store.runs import RUNS, RunStore

    path = Path.cwd() / RUNS / run_id
    if not isinstance(error, RunInterrupted) and (path / "run.json").is_file():
        record = RunStore(path).load()
        if record.steps:
            report(Run(record, path))
