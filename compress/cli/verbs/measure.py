"""`compress measure`: measure any ONNX file with the protocol of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compress.cli.options import JSON, PATH, QUIET, TASK
from compress.core.terminal.printing import echo


@click.command()
@click.argument("model", type=PATH)
@click.option("--data", metavar="PATH", help="The data, as `data.path` of a profile; its test split is used.")
@click.option("--profile", type=PATH, help="Take task, data, seed, targets and `measure` from this profile.")
@click.option("--task", type=TASK, help="What the model is for; from its task.json if unset.")
@click.option(
    "--target", "targets", multiple=True, metavar="TARGET", help="`cpu`, or `{threads: 2}`; repeatable."
)
@click.option("--baseline", type=PATH, help="The ONNX file to compare with; unset: the model itself.")
@click.option(
    "--tokenizer", type=PATH, help="Folder with the tokenizer.json of a model that has none beside it."
)
@click.option("--task-json", type=PATH, help="Folder with the task.json of a model that has none beside it.")
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
@click.option("--allow-code", is_flag=True, help="Allow the Python code that the data names to run.")
@QUIET
@JSON
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
    allow_code: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure any ONNX model: accuracy, latency, memory, size. MODEL is a file, a bundle or an artifact."""
    from compress import api
    from compress.core.terminal.console import Terminal
    from compress.reporting.data.frame import contract_text
    from compress.reporting.render.terminal import RowLine, RunTable
    from compress.reporting.sections.headline import chance_warning, disturbed_words

    out = Terminal()
    finished = api.measure(
        model,
        data,
        profile=profile,
        task=task,
        targets=[_parse_target(word) for word in targets],
        baseline=baseline,
        tokenizer=tokenizer,
        task_json=task_json,
        labels=None if labels is None else _parse_labels(labels),
        inputs=_parse_inputs(inputs),
        output=output,
        name=name,
        assignments=assignments,
        allow_code=allow_code,
        quiet=quiet or as_json,
        on_row=lambda run, record: None if as_json else out.print(RowLine(run, record)),
    )
    record = finished.record
    if as_json:
        echo(contract_text(record), newline=False)
        return
    assert finished.report is not None
    out.print(RunTable(record))
    for line in (*chance_warning(record), *disturbed_words(record)):
        out.print(line, markup=False, highlight=False)
    out.print(f"run     {record.run}\nreport  {finished.report.html}", soft_wrap=True)


def _parse_inputs(options: tuple[str, ...]) -> dict[str, str]:
    from compress.core.errors import UsageError

    mapped = {}
    for option in options:
        role, separator, name = option.partition("=")
        if not separator or not name:
            raise UsageError(
                f"--input {option}: expected an input of texts and the model's name for it, as in input_ids=NAME"
            )
        mapped[role] = name
    return mapped


def _parse_labels(value: str) -> tuple[str, ...]:
    from compress.core.disk.reading import read_json
    from compress.core.errors import UsageError

    if not value.endswith(".json"):
        return tuple(part.strip() for part in value.split(","))
    try:
        names = read_json(Path(value), error=UsageError)
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=f"--labels {value}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError("expected a list of names", where=f"--labels {value}")
    return tuple(names)


def _parse_target(text: str) -> Any:
    """Parse a target: `cpu` becomes a mapping with that device, `{threads: 2}` is read as YAML."""
    import yaml

    from compress.core.errors import UsageError

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError("expected a device, or `{threads: 2}`", where=f"--target {text}") from error
    return {"device": value} if isinstance(value, str) else value
