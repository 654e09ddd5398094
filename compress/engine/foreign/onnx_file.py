"""Import of arbitrary ONNX files as artifacts, using the files beside them or settings given by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.bundles.layout import MANIFEST
from compress.core.artifacts import ONNX_MODEL, SEAL, TASK, TOKENIZER, Artifact, seal
from compress.core.disk.files import copy_file, make_folder, sha256_file, write_json
from compress.core.disk.reading import content_errors
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import ModelError, UsageError
from compress.core.forms import ONNX_FLOAT, Form
from compress.core.records import Size
from compress.core.units import megabytes
from compress.encoding.interface import SECTION, Interface
from compress.engine.foreign.companion_files import (
    find_config_labels,
    find_image_format,
    find_json,
    find_label_order,
    find_task_config,
    find_text_format,
    require_file,
    write_tokenizer,
)
from compress.engine.foreign.interfaces import (
    FixedSizes,
    check_output,
    check_unused_options,
    fixed_sizes,
    image_input,
    select_output,
    text_inputs,
)
from compress.models.io.onnx_files import OnnxFile, copy_onnx, onnx_file, read_onnx
from compress.runtimes.runner import LOGIT_POSITIONS
from compress.tasks.table import task_kind, task_names


@dataclass(frozen=True)
class ModelSettings:
    """Settings that the user gives for a model.

    `search_folders` are folders that are searched before the model's own for `tokenizer.json`, `task.json` and the
    files of transformers. `labels` names the outputs in order; `inputs` maps the standard names of inputs to the
    model's; `output` is the output to read.
    """

    search_folders: tuple[Path, ...] = ()
    labels: tuple[str, ...] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None


def model_settings(
    tokenizer: Path | None,
    task_json: Path | None,
    labels: Sequence[str] | None,
    inputs: Mapping[str, str],
    output: str | None,
) -> ModelSettings:
    """Build the settings from the user's options; a file may be given by its folder.

    Raises:
        UsageError: a file does not exist.
    """
    folders = []
    for option, path, file in (("--task-json", task_json, TASK), ("--tokenizer", tokenizer, TOKENIZER)):
        if path is None:
            continue
        folder = path.parent if path.name == file else path
        if not (folder / file).is_file():
            raise UsageError(f"there is no {file} here", where=f"{option} {path}")
        folders.append(folder)
    return ModelSettings(tuple(folders), None if labels is None else tuple(labels), inputs, output)


@dataclass(frozen=True)
class ImportedModel:
    """An imported model that can be measured: the artifact, the original file, and its size.

    `model_files` names its files in the artifact: the graph and its external data. `form` and `facts` are those of
    bundles and artifacts of this package; None and empty for other files. `fixed_sizes` contains the fixed sizes of its
    inputs.
    """

    artifact: Artifact
    file: Path
    model_files: tuple[str, ...]
    size: Size
    form: Form | None
    facts: Mapping[str, Any]
    fixed_sizes: FixedSizes
    positions: int | None = None
    """Maximum number of tokens, if the model has a table of positions."""
    labels: int | None = None
    """Number of labels of the model, if the data has only some of them."""


def task_of_file(model: Path, settings: ModelSettings) -> str | None:
    """Return the task in the `task.json` of a model; None without one.

    Raises:
        ModelError: there is no such model, or no such task.
    """
    task = find_task_config(_search_folders(onnx_file(model), settings)).get("task")
    if task is not None and task not in task_names():
        raise ModelError(f"its {TASK} names the task {ascii(task)[:80]}, which is unknown", where=str(model))
    return task


def import_model(
    model: Path, settings: ModelSettings, task: str, labels: Sequence[str], max_length: int, folder: Path
) -> ImportedModel:
    """Make an artifact of an ONNX file in `folder`, which must not exist; the weights and the graph are not changed.

    Args:
        model: an ONNX file, or the folder of a bundle or an artifact.
        settings: settings of the user for the model.
        task: the task.
        labels: labels of the data, with which those of the model are matched by name.
        max_length: maximum number of tokens of a text, if the model has no `task.json` that sets it.
        folder: the folder of the artifact.

    Raises:
        ModelError: the file is damaged, or its inputs, outputs or labels do not fit the task and the data.
    """
    with content_errors("this model", str(model)):
        return _build_artifact(onnx_file(model), settings, task, labels, max_length, folder)


def _build_artifact(
    file: Path, settings: ModelSettings, task: str, labels: Sequence[str], max_length: int, folder: Path
) -> ImportedModel:
    form, facts = _own_form_and_facts(file)
    model = read_onnx(file)
    folders = _search_folders(model.path, settings)
    task_config, kind = find_task_config(folders), task_kind(task)
    if task_config.get("task", task) != task:
        raise ModelError(f"this model is for {task_config['task']}, not {task}", where=str(model.path))
    is_decoder = kind.generates and any(port.name == LOGIT_POSITIONS for port in model.inputs)
    own_decoder = is_decoder and "task" in task_config
    check_unused_options(
        model,
        settings.inputs,
        settings.output,
        settings.labels if not labels else None,
        task,
        own_decoder=own_decoder,
    )
    if own_decoder:
        make_folder(folder)
        copy_file(require_file(folders, TOKENIZER, model.path), folder / TOKENIZER)
        return _seal_model(model, folder, task_config, FixedSizes(), None, form, facts)
    roles = image_input(model) if kind.items == "image" else text_inputs(model, settings.inputs)
    label_order, label_count = (
        find_label_order(model, folders, task_config, settings.labels, labels) if labels else (None, None)
    )
    fixed = fixed_sizes(model, texts=kind.items == "text")
    output = select_output(model, settings.output)
    interface = Interface(
        roles, None if output is model.outputs[0] else output.name, label_order, fixed.length, label_count
    )
    own_head = kind.head == "own"
    if own_head and "task" not in task_config:
        raise ModelError(
            f"it is unknown how this model takes examples of {task}: there is no {TASK} beside it",
            where=str(model.path),
            hint="Name its folder with --task-json.",
        )
    if not own_head:
        # For other heads the scorer checks the outputs.
        check_output(model, interface, output)
    make_folder(folder)
    body: dict[str, Any] = {
        **(task_config if own_head else {}),
        "task": task,
        "labels": list(labels),
        "input_names": list(roles),
        "output_names": [output.name],
        SECTION: interface.as_dict(),
    }
    if kind.items == "image":
        body["image"] = task_config.get("image") or find_image_format(model, folders)
    elif not own_head or any((each / TOKENIZER).is_file() for each in folders):
        tokenizer = require_file(folders, TOKENIZER, model.path)
        body |= find_text_format(tokenizer, folders, task_config, max_length)
        if fixed.length is not None:
            # Truncated by the tokenizer, which keeps special tokens at the end.
            body["max_length"] = min(body["max_length"], fixed.length)
        write_tokenizer(tokenizer, body, folder, complete="max_length" in task_config)
    return _seal_model(model, folder, body, fixed, label_count, form, facts)


def _seal_model(
    model: OnnxFile,
    folder: Path,
    body: Mapping[str, Any],
    fixed: FixedSizes,
    label_count: int | None,
    form: Form | None,
    facts: Mapping[str, Any],
) -> ImportedModel:
    """Write `task.json` and the model to `folder`, which contains the tokenizer already, and seal it."""
    write_json(folder / TASK, body)
    external = copy_onnx(model, folder / ONNX_MODEL, reserved=(TASK, TOKENIZER, SEAL))
    artifact = seal(folder, form or ONNX_FLOAT, facts)
    model_files = (ONNX_MODEL, *external)
    # Size of the original files: in the copy, external data may have other names of another length in the graph.
    model_bytes = sum(
        file.stat().st_size for file in (model.path, *(model.path.parent / one for one in model.external))
    )
    tokenizer_bytes = artifact.files[TOKENIZER][1] if TOKENIZER in artifact.files else 0
    size = Size(
        model_mb=megabytes(model_bytes),
        tokenizer_mb=megabytes(tokenizer_bytes),
        total_mb=megabytes(model_bytes + tokenizer_bytes),
    )
    return ImportedModel(
        artifact, model.path, model_files, size, form, facts, fixed, model.positions, label_count
    )


def for_baseline(settings: ModelSettings, baseline: Path) -> ModelSettings:
    """Adapt the user's settings for the model to the baseline, whose own files take precedence."""
    model = read_onnx(onnx_file(baseline))
    names = {port.name for port in model.inputs}
    outputs = {port.name for port in model.outputs if port.is_numeric}
    folders = _search_folders(model.path, ModelSettings())
    has_labels = bool(find_task_config(folders).get("labels")) or find_config_labels(folders) is not None
    return replace(
        settings,
        search_folders=(model.path.parent, *settings.search_folders),
        labels=None if has_labels else settings.labels,
        inputs={role: name for role, name in settings.inputs.items() if name in names},
        output=settings.output if settings.output in outputs else None,
    )


def _search_folders(file: Path, settings: ModelSettings) -> tuple[Path, ...]:
    return (*settings.search_folders, file.parent)


def _own_form_and_facts(file: Path) -> tuple[Form | None, Mapping[str, Any]]:
    """Return form and facts of a model of this package, from the bundle's manifest or the artifact's seal.

    Raises:
        ModelError: a file that the measurement reads differs from the recorded one.
    """
    for name in (MANIFEST, SEAL):
        body = find_json((file.parent,), name)
        if body is not None and "form" in body and file.name == ONNX_MODEL:
            _check_unchanged(file.parent, body.get("files", {}), name)
            return Form.from_dict(body["form"]), body.get("facts", {})
    return None, {}


def _check_unchanged(folder: Path, files: Mapping[str, Mapping[str, Any]], manifest_name: str) -> None:
    """Check the files that the measurement reads against their recorded sizes and hashes."""
    for name, entry in files.items():
        if not (name.startswith(ONNX_MODEL) or name in (TOKENIZER, TASK)):
            continue
        file = path_inside(folder, name, where=str(folder / manifest_name))
        if not {"bytes", "sha256"} <= entry.keys():
            continue
        size = file.stat().st_size if file.is_file() else 0
        if size < entry["bytes"]:
            fault = f"was cut off: it has {size} of {entry['bytes']} bytes"
        elif size > entry["bytes"] or sha256_file(file) != entry["sha256"]:
            fault = "was changed since it was made"
        else:
            continue
        raise ModelError(
            f"this file {fault}, according to {manifest_name} beside it",
            where=str(file),
            hint="Make it again: start its run again. To measure a model that was changed on "
            f"purpose, put it in a folder without {manifest_name}.",
        )
