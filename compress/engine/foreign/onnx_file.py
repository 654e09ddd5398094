"""Import of arbitrary ONNX files as artifacts, using the files beside them or settings given by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.bundles.layout import MANIFEST
from compress.core.artifacts import MODEL_CONFIG, ONNX_MODEL, SEAL, TASK, TOKENIZER, Artifact, seal
from compress.core.disk.files import copy_file, make_folder, sha256_file, write_json, write_text
from compress.core.disk.reading import read_mapping, understood
from compress.core.disk.safe_paths import inside
from compress.core.errors import ModelError, UsageError
from compress.core.forms import ONNX_FLOAT, Form
from compress.core.records import Size
from compress.core.units import megabytes
from compress.encoding.interface import SECTION, Interface
from compress.encoding.preprocessing import declared_images
from compress.engine.foreign.interfaces import (
    Fixed,
    channels_last,
    check_output,
    check_unused_options,
    fixed_sizes,
    image_input,
    select_output,
    text_inputs,
)
from compress.models.io.onnx_files import OnnxFile, copy_onnx, onnx_file, read_onnx
from compress.models.teacher.labels import head_names, match_labels
from compress.models.teacher.location import PREPROCESSOR
from compress.models.text.pooling import MODULES
from compress.models.text.tokenizer_files import open_tokenizer
from compress.runtimes.runner import LOGIT_POSITIONS
from compress.tasks.table import task_kind, task_names


@dataclass(frozen=True)
class ModelSettings:
    """Settings that the user gives for a model.

    `beside` are folders that are searched before the model's own for `tokenizer.json`, `task.json` and the files of
    transformers. `labels` names the outputs in order; `inputs` maps the standard names of inputs to the model's;
    `output` is the output to read.
    """

    beside: tuple[Path, ...] = ()
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

    `weights` names its files in the artifact: the graph and its external data. `form` and `facts` are those of bundles
    and artifacts of this package; None and empty for other files. `fixed` contains the fixed sizes of its inputs.
    """

    artifact: Artifact
    file: Path
    weights: tuple[str, ...]
    size: Size
    form: Form | None
    facts: Mapping[str, Any]
    fixed: Fixed
    positions: int | None = None
    """Maximum number of tokens, if the model has a table of positions."""
    labels: int | None = None
    """Number of labels of the model, if the data has only some of them."""


def task_of_file(model: Path, given: ModelSettings) -> str | None:
    """Return the task in the `task.json` of a model; None without one.

    Raises:
        ModelError: there is no such model, or no such task.
    """
    task = _described(_folders(onnx_file(model), given)).get("task")
    if task is not None and task not in task_names():
        raise ModelError(f"its {TASK} names the task {ascii(task)[:80]}, which is unknown", where=str(model))
    return task


def import_model(
    model: Path, given: ModelSettings, task: str, labels: Sequence[str], max_length: int, folder: Path
) -> ImportedModel:
    """Make an artifact of an ONNX file in `folder`, which must not exist; the weights and the graph are not changed.

    Args:
        model: an ONNX file, or the folder of a bundle or an artifact.
        given: settings of the user for the model.
        task: the task.
        labels: labels of the data, with which those of the model are matched by name.
        max_length: maximum number of tokens of a text, if the model has no `task.json` that sets it.
        folder: the folder of the artifact.

    Raises:
        ModelError: the file is damaged, or its inputs, outputs or labels do not fit the task and the data.
    """
    with understood("this model", str(model)):
        return _taken_in(onnx_file(model), given, task, labels, max_length, folder)


def _taken_in(
    file: Path, given: ModelSettings, task: str, labels: Sequence[str], max_length: int, folder: Path
) -> ImportedModel:
    form, facts = _made_by_us(file)
    found = read_onnx(file)
    folders = _folders(found.path, given)
    described, kind = _described(folders), task_kind(task)
    if described.get("task", task) != task:
        raise ModelError(f"this model is for {described['task']}, not {task}", where=str(found.path))
    ours = kind.writes and "task" in described and any(port.name == LOGIT_POSITIONS for port in found.inputs)
    check_unused_options(
        found, given.inputs, given.output, given.labels if not labels else None, task, ours=ours
    )
    if ours:
        make_folder(folder)
        copy_file(_required(folders, TOKENIZER, found.path), folder / TOKENIZER)
        return _sealed(found, folder, described, Fixed(), None, form, facts)
    roles = image_input(found) if kind.items == "image" else text_inputs(found, given.inputs)
    order, width = _label_order(found, folders, described, given, labels) if labels else (None, None)
    fixed = fixed_sizes(found, texts=kind.items == "text")
    output = select_output(found, given.output)
    interface = Interface(
        roles, None if output is found.outputs[0] else output.name, order, fixed.length, width
    )
    own = kind.head == "own"
    if own and "task" not in described:
        raise ModelError(
            f"it is unknown how this model takes examples of {task}: there is no {TASK} beside it",
            where=str(found.path),
            hint="Name its folder with --task-json.",
        )
    if not own:
        # For other heads the scorer checks the outputs.
        check_output(found, interface, output)
    make_folder(folder)
    body: dict[str, Any] = {
        **(described if own else {}),
        "task": task,
        "labels": list(labels),
        "input_names": list(roles),
        "output_names": [output.name],
        SECTION: interface.as_dict(),
    }
    if kind.items == "image":
        body["image"] = described.get("image") or _image_format(found, folders)
    elif not own or any((each / TOKENIZER).is_file() for each in folders):
        tokenizer = _required(folders, TOKENIZER, found.path)
        body |= _text_format(tokenizer, folders, described, max_length)
        if fixed.length is not None:
            # Truncated by the tokenizer, which keeps special tokens at the end.
            body["max_length"] = min(body["max_length"], fixed.length)
        _place_tokenizer(tokenizer, body, folder, ours="max_length" in described)
    return _sealed(found, folder, body, fixed, width, form, facts)


def _sealed(
    found: OnnxFile,
    folder: Path,
    body: Mapping[str, Any],
    fixed: Fixed,
    width: int | None,
    form: Form | None,
    facts: Mapping[str, Any],
) -> ImportedModel:
    """Write `task.json` and the model to `folder`, which contains the tokenizer already, and seal it."""
    write_json(folder / TASK, body)
    external = copy_onnx(found, folder / ONNX_MODEL, taken=(TASK, TOKENIZER, SEAL))
    artifact = seal(folder, form or ONNX_FLOAT, facts)
    names = (ONNX_MODEL, *external)
    # Size of the original files: in the copy, external data may have other names of another length in the graph.
    weights = sum(
        file.stat().st_size for file in (found.path, *(found.path.parent / one for one in found.external))
    )
    tokens = artifact.files[TOKENIZER][1] if TOKENIZER in artifact.files else 0
    size = Size(
        model_mb=megabytes(weights), tokenizer_mb=megabytes(tokens), total_mb=megabytes(weights + tokens)
    )
    return ImportedModel(artifact, found.path, names, size, form, facts, fixed, found.positions, width)


def for_baseline(given: ModelSettings, baseline: Path) -> ModelSettings:
    """Adapt the user's settings for the model to the baseline, whose own files take precedence."""
    found = read_onnx(onnx_file(baseline))
    names = {port.name for port in found.inputs}
    outputs = {port.name for port in found.outputs if port.is_numbers}
    own = _folders(found.path, ModelSettings())
    says = bool(_described(own).get("labels")) or _config_labels(own) is not None
    return replace(
        given,
        beside=(found.path.parent, *given.beside),
        labels=None if says else given.labels,
        inputs={role: name for role, name in given.inputs.items() if name in names},
        output=given.output if given.output in outputs else None,
    )


def _folders(file: Path, given: ModelSettings) -> tuple[Path, ...]:
    return (*given.beside, file.parent)


def _described(folders: Sequence[Path]) -> Mapping[str, Any]:
    """Return the first `task.json` that is found; empty without one."""
    return _first_json(folders, TASK) or {}


def _first_file(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _first_json(folders: Sequence[Path], name: str) -> dict[str, Any] | None:
    file = _first_file(folders, name)
    return None if file is None else read_mapping(file)


def _required(folders: Sequence[Path], name: str, model: Path) -> Path:
    file = _first_file(folders, name)
    if file is None:
        raise ModelError(
            f"there is no {name} beside this model",
            where=str(model),
            hint="Name its folder with --tokenizer.",
        )
    return file


def _label_order(
    found: OnnxFile,
    folders: Sequence[Path],
    described: Mapping[str, Any],
    given: ModelSettings,
    labels: Sequence[str],
) -> tuple[tuple[int, ...], int | None]:
    """Return the output index for each label of the data, matched by name, and the number of the model's labels if it
    is larger than that of the data.

    Raises:
        ModelError: the outputs have no names, or the data has labels that the model does not have.
    """
    names = given.labels or tuple(described.get("labels") or ()) or _config_labels(folders)
    known = f"The data's labels: {', '.join(labels[:20])}{' ...' if len(labels) > 20 else ''}."
    if not names:
        raise ModelError(
            "it is unknown which label each output of this model stands for",
            where=str(found.path),
            hint=f"Name them in order: --labels A,B,C, or a JSON file with a list of them. {known}",
        )
    order = match_labels(names, labels, subset=True)
    if order is None:
        foreign = sorted(set(labels) - set(names))
        raise ModelError(
            "the labels named for this model are not the data's: "
            + (f"it does not have {', '.join(foreign[:5])}" if foreign else "one is given twice"),
            where=str(found.path),
            hint=f"{len(names)} are named for the model. {known}",
            code="other-labels",
        )
    return order, len(names) if len(names) > len(labels) else None


def _config_labels(folders: Sequence[Path]) -> tuple[str, ...] | None:
    config = _first_json(folders, MODEL_CONFIG)
    return None if config is None else head_names(config)


def _text_format(
    tokenizer: Path, folders: Sequence[Path], described: Mapping[str, Any], max_length: int
) -> dict[str, Any]:
    if "max_length" in described:
        return {
            key: described[key] for key in ("max_length", "pad_id", "unk_id", "texts") if key in described
        }
    read = open_tokenizer(tokenizer)
    pad = (_first_json(folders, MODEL_CONFIG) or {}).get("pad_token_id")
    if pad is None:
        padding = read.padding or {}
        known = [padding.get("pad_id"), read.token_to_id("[PAD]"), read.token_to_id("<pad>")]
        pad = next((each for each in known if each is not None), 0)
    unknown = read.token_to_id(getattr(read.model, "unk_token", None) or "[UNK]")
    return {"max_length": max_length, "pad_id": pad, "unk_id": -1 if unknown is None else unknown}


def _place_tokenizer(tokenizer: Path, body: dict[str, Any], folder: Path, *, ours: bool) -> None:
    """Write `tokenizer.json` to `folder`, unchanged or completed from the tokenizer's other files, and update `body`.

    Raises:
        ModelError: those files contain settings that cannot be carried over.
    """
    beside = tokenizer.parent
    if ours or not any((beside / name).is_file() for name in ("tokenizer_config.json", MODULES)):
        copy_file(tokenizer, folder / TOKENIZER)
        return
    # Imported here, since it needs transformers, which models of this package do not.
    from compress.models.text.tokenization import read_tokenization

    read = read_tokenization(beside, sentences=task_kind(body["task"]).head == "pooled")
    body["max_length"] = min(body["max_length"], read.longest or body["max_length"])
    body.update(read.format.section())
    read.prove((), body["max_length"], str(beside))
    write_text(folder / TOKENIZER, read.text)


def _image_format(found: OnnxFile, folders: Sequence[Path]) -> dict[str, Any]:
    """Return the `image` section of a model that has only the files of transformers beside it.

    Raises:
        ModelError: scaling and normalization of images are not declared.
    """
    (port,) = found.inputs
    last = channels_last(port)
    axes = ("?",) * 4 if port.axes is None else port.axes
    height, width, channels = (axes[index] for index in ((1, 2, 3) if last else (2, 3, 1)))
    config = _first_json(folders, MODEL_CONFIG) or {}
    if isinstance(channels, int):
        config = {**config, "num_channels": channels}
    said = declared_images(config, _first_json(folders, PREPROCESSOR), where=str(found.path))
    own = "a task.json with an `image` section (size, channels, mean, std) with --task-json"
    if said.refusal is not None:
        raise ModelError(
            said.refusal.message, where=said.refusal.where, hint=f"Name {own}.", code=said.refusal.code
        )
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    depth = said.channels
    if depth is None or said.size is None or said.normalisation is None:
        raise ModelError(
            "it is unknown how images are scaled and normalised for this model",
            where=str(found.path),
            hint=f"Put its {PREPROCESSOR} beside it, or name {own}.",
            code="preprocess-undeclared",
        )
    return said.sized(fixed or said.size).complete((), depth).as_dict()


def _made_by_us(file: Path) -> tuple[Form | None, Mapping[str, Any]]:
    """Return form and facts of a model of this package, from the bundle's manifest or the artifact's seal.

    Raises:
        ModelError: a file that the measurement reads differs from the recorded one.
    """
    for name in (MANIFEST, SEAL):
        body = _first_json((file.parent,), name)
        if body is not None and "form" in body and file.name == ONNX_MODEL:
            _check_unchanged(file.parent, body.get("files", {}), name)
            return Form.from_dict(body["form"]), body.get("facts", {})
    return None, {}


def _check_unchanged(folder: Path, files: Mapping[str, Mapping[str, Any]], described: str) -> None:
    """Check the files that the measurement reads against their recorded sizes and hashes."""
    for name, entry in files.items():
        if not (name.startswith(ONNX_MODEL) or name in (TOKENIZER, TASK)):
            continue
        file = inside(folder, name, where=str(folder / described))
        if not {"bytes", "sha256"} <= entry.keys():
            continue
        present = file.stat().st_size if file.is_file() else 0
        if present < entry["bytes"]:
            fault = f"was cut off: it has {present} of {entry['bytes']} bytes"
        elif present > entry["bytes"] or sha256_file(file) != entry["sha256"]:
            fault = "was changed since it was made"
        else:
            continue
        raise ModelError(
            f"this file {fault}, according to {described} beside it",
            where=str(file),
            hint="Make it again: start its run again. To measure a model that was changed on "
            f"purpose, put it in a folder without {described}.",
        )
