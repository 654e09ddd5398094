"""`compress measure`: one ONNX file, ours or not, by the protocol of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.core.printing import echo
from compress.tasks.table import task_names

if TYPE_CHECKING:
    from compress.engine.foreign_onnx import Given
    from compress.profile.measure_request import MeasureRequest
    from compress.profile.schema import Profile

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=_PATH)
@click.option("--data", metavar="PATH", help="The data, as `data.path` of a profile; its test split is used.")
@click.option("--profile", type=_PATH, help="Take task, data, seed, targets and `measure` from this profile.")
@click.option("--task", type=click.Choice(task_names()), help="Unset: what the model's task.json says.")
@click.option(
    "--target", "targets", multiple=True, metavar="TARGET", help="`cpu`, or `{threads: 2}`; repeatable."
)
@click.option("--baseline", type=_PATH, help="The ONNX file to compare with; unset: the model itself.")
@click.option(
    "--tokenizer", type=_PATH, help="Folder with the tokenizer.json of a model that has none beside it."
)
@click.option("--task-json", type=_PATH, help="Folder with the task.json of a model that has none beside it.")
@click.option("--labels", metavar="A,B,C", help="What the outputs stand for, in order; or a JSON file.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="input_ids=NAME",
    help="What the model calls an input; repeatable.",
)
@click.option("--output", metavar="NAME", help="The output to read; unset: the first.")
@click.option("--name", help="What the run is called; unset: after the file.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="As `data.text_column=review`; repeatable.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def measure(
    model: Path,
    data: str | None,
    profile: Path | None,
    task: str | None,
    targets: tuple[str, ...],
    baseline: Path | None,
    tokenizer: Path | None,
    task_json: Path | None,
    labels: str | None,
    inputs: tuple[str, ...],
    output: str | None,
    name: str | None,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure an ONNX model, ours or not: accuracy, latency, memory, size. MODEL is a file, a bundle or an artifact."""
    from compress.core.console import Terminal, TerminalProgress
    from compress.core.progress import Silent
    from compress.engine.foreign_onnx import task_of_file
    from compress.engine.measuring import measure_files
    from compress.report.data.frame import contract_text
    from compress.report.render.terminal import row_line, table
    from compress.report.render.write import report_folder, write_report
    from compress.report.sections.headline import disturbed_words, useless_words

    given = _given(tokenizer, task_json, labels, inputs, output)
    values: dict[str, Any] = {"name": name or _name_of(model)}
    base = Path.cwd()
    if profile is not None:
        from compress.profile.load import load_profile

        loaded = load_profile(profile)
        values, base = values | _sections(loaded.profile), loaded.source.base
    if data is not None:
        here = Path.cwd() / data
        values["data"] = {**values.get("data", {}), "path": str(here) if here.exists() else data}
    wanted = task or values.get("task") or task_of_file(model, given)
    request = _request({**values, "task": wanted} if wanted else values, targets, assignments, base)
    out = Terminal()
    finished, _ = measure_files(
        model,
        baseline,
        given,
        request,
        base,
        Path.cwd(),
        Silent() if quiet or as_json else TerminalProgress(Terminal(stderr=True)),
        lambda run, record: None if as_json else out.print(row_line(run, record)),
    )
    html = write_report(finished, report_folder(finished, Path.cwd())).html
    if as_json:
        echo(contract_text(finished), newline=False)
        return
    out.print(table(finished))
    for line in (*useless_words(finished), *disturbed_words(finished)):
        out.print(line, markup=False, highlight=False)
    out.print(f"run     {finished.run}\nreport  {html}", soft_wrap=True)


def _sections(profile: Profile) -> dict[str, Any]:
    """What measuring takes of a profile, as it was written: defaults written out may not fit the device."""
    return profile.model_dump(
        mode="json", include={"task", "seed", "data", "targets", "measure"}, exclude_unset=True
    )


def _given(
    tokenizer: Path | None,
    task_json: Path | None,
    labels: str | None,
    inputs: tuple[str, ...],
    output: str | None,
) -> Given:
    from compress.core.errors import UsageError
    from compress.engine.foreign_onnx import Given

    mapped = {}
    for word in inputs:
        role, separator, name = word.partition("=")
        if not separator or not name:
            raise UsageError(
                f"--input {word}: expected what texts give and the model's name for it, input_ids=NAME"
            )
        mapped[role] = name
    folders = []
    for option, path, file in (
        ("--task-json", task_json, "task.json"),
        ("--tokenizer", tokenizer, "tokenizer.json"),
    ):
        if path is None:
            continue
        folder = path.parent if path.name == file else path
        if not (folder / file).is_file():
            raise UsageError(f"there is no {file} here", where=f"{option} {path}")
        folders.append(folder)
    return Given(tuple(folders), None if labels is None else _labels(labels), mapped, output)


def _labels(word: str) -> tuple[str, ...]:
    from compress.core.errors import UsageError
    from compress.core.reading import read_json

    if not word.endswith(".json"):
        return tuple(part.strip() for part in word.split(","))
    try:
        names = read_json(Path(word), error=UsageError)
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=f"--labels {word}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError("expected a list of names", where=f"--labels {word}")
    return tuple(names)


def _request(
    values: dict[str, Any], targets: tuple[str, ...], assignments: tuple[str, ...], base: Path
) -> MeasureRequest:
    """The request, checked as a profile is.

    Raises:
        ProfileError: every fault of it.
    """
    from pydantic import ValidationError

    from compress.core.errors import ProfileError, UsageError
    from compress.profile.faults import faults_of
    from compress.profile.measure_request import MeasureRequest
    from compress.profile.yaml_lines import ProfileSource, override

    if "data" not in values:
        raise UsageError("say on which data to measure: --data PATH, or --profile PROFILE")
    if "task" not in values:
        raise UsageError(f"say what the model is for: --task {' | '.join(task_names())}")
    if targets:
        values = {**values, "targets": [_target(word) for word in targets]}
    source = override(ProfileSource("compress measure", "", base, values, {}), assignments)
    try:
        return MeasureRequest.model_validate(source.values)
    except ValidationError as error:
        raise ProfileError(faults_of(error, source, MeasureRequest)) from error


def _target(word: str) -> Any:
    """`cpu` -> a mapping with that device; `{threads: 2}` is read as YAML."""
    import yaml

    from compress.core.errors import UsageError

    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise UsageError("expected a device, or `{threads: 2}`", where=f"--target {word}") from error
    return {"device": value} if isinstance(value, str) else value


def _name_of(model: Path) -> str:
    """`runs/x/bundle/model.onnx` -> `bundle`, `mine.onnx` -> `mine`."""
    path = model.absolute()
    own = path.name if path.is_dir() else path.parent.name if path.stem == "model" else path.stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", own).strip("-.") or "model"
