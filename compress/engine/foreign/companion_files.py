"""What the files beside a foreign ONNX model tell: its task, its labels, how texts and images become its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.core.artifacts import MODEL_CONFIG, TASK, TOKENIZER
from compress.core.disk.files import copy_file, write_text
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.encoding.preprocessing import declared_images
from compress.engine.foreign.interfaces import channels_last
from compress.models.io.onnx_files import OnnxFile
from compress.models.teacher.labels import head_names, match_labels
from compress.models.teacher.location import PREPROCESSOR
from compress.models.text.pooling import MODULES
from compress.models.text.tokenizer_files import open_tokenizer
from compress.tasks.table import task_kind


def find_task_config(folders: Sequence[Path]) -> Mapping[str, Any]:
    """Return the first `task.json` that is found; empty without one."""
    return find_json(folders, TASK) or {}


def find_file(folders: Sequence[Path], name: str) -> Path | None:
    """Return the first file of this name that is found; None without one."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def find_json(folders: Sequence[Path], name: str) -> dict[str, Any] | None:
    """Return the object in the first JSON file of this name that is found; None without one."""
    file = find_file(folders, name)
    return None if file is None else read_mapping(file)


def require_file(folders: Sequence[Path], name: str, model: Path) -> Path:
    """Return the first file of this name that is found.

    Raises:
        ModelError: there is none.
    """
    file = find_file(folders, name)
    if file is None:
        raise ModelError(
            f"there is no {name} beside this model",
            where=str(model),
            hint="Name its folder with --tokenizer.",
        )
    return file


def find_label_order(
    model: OnnxFile,
    folders: Sequence[Path],
    task_config: Mapping[str, Any],
    named_labels: Sequence[str] | None,
    labels: Sequence[str],
) -> tuple[tuple[int, ...], int | None]:
    """Return the output index for each label of the data, matched by name, and the number of the model's labels if it
    is larger than that of the data; `named_labels`: those that the user gave for the model.

    Raises:
        ModelError: the outputs have no names, or the data has labels that the model does not have.
    """
    names = tuple(named_labels or ()) or tuple(task_config.get("labels") or ()) or find_config_labels(folders)
    labels_hint = f"The data's labels: {', '.join(labels[:20])}{' ...' if len(labels) > 20 else ''}."
    if not names:
        raise ModelError(
            "it is unknown which label each output of this model stands for",
            where=str(model.path),
            hint=f"Name them in order: --labels A,B,C, or a JSON file with a list of them. {labels_hint}",
        )
    order = match_labels(names, labels, subset=True)
    if order is None:
        missing = sorted(set(labels) - set(names))
        raise ModelError(
            "the labels named for this model are not the data's: "
            + (f"it does not have {', '.join(missing[:5])}" if missing else "one is given twice"),
            where=str(model.path),
            hint=f"{len(names)} are named for the model. {labels_hint}",
            code="other-labels",
        )
    return order, len(names) if len(names) > len(labels) else None


def find_config_labels(folders: Sequence[Path]) -> tuple[str, ...] | None:
    """Return the labels that the `config.json` beside the model names."""
    config = find_json(folders, MODEL_CONFIG)
    return None if config is None else head_names(config)


def find_text_format(
    tokenizer: Path, folders: Sequence[Path], task_config: Mapping[str, Any], max_length: int
) -> dict[str, Any]:
    """Return how texts become tokens: `max_length`, `pad_id`, `unk_id`, and `texts` if the `task.json` has it."""
    if "max_length" in task_config:
        return {
            key: task_config[key] for key in ("max_length", "pad_id", "unk_id", "texts") if key in task_config
        }
    loaded = open_tokenizer(tokenizer)
    pad_id = (find_json(folders, MODEL_CONFIG) or {}).get("pad_token_id")
    if pad_id is None:
        padding = loaded.padding or {}
        candidates = [padding.get("pad_id"), loaded.token_to_id("[PAD]"), loaded.token_to_id("<pad>")]
        pad_id = next((each for each in candidates if each is not None), 0)
    unk_id = loaded.token_to_id(getattr(loaded.model, "unk_token", None) or "[UNK]")
    return {"max_length": max_length, "pad_id": pad_id, "unk_id": -1 if unk_id is None else unk_id}


def write_tokenizer(tokenizer: Path, body: dict[str, Any], folder: Path, *, complete: bool) -> None:
    """Write `tokenizer.json` to `folder`, unchanged or completed from the tokenizer's other files, and update `body`.

    Raises:
        ModelError: those files contain settings that cannot be carried over.
    """
    source = tokenizer.parent
    if complete or not any((source / name).is_file() for name in ("tokenizer_config.json", MODULES)):
        copy_file(tokenizer, folder / TOKENIZER)
        return
    # Imported here, since it needs transformers, which models of this package do not.
    from compress.models.text.tokenization import read_tokenization

    tokenization = read_tokenization(source, sentences=task_kind(body["task"]).head == "pooled")
    body["max_length"] = min(body["max_length"], tokenization.max_length or body["max_length"])
    body.update(tokenization.format.section())
    tokenization.verify((), body["max_length"], str(source))
    write_text(folder / TOKENIZER, tokenization.text)


def find_image_format(model: OnnxFile, folders: Sequence[Path]) -> dict[str, Any]:
    """Return the `image` section of a model that has only the files of transformers beside it.

    Raises:
        ModelError: scaling and normalization of images are not declared.
    """
    (port,) = model.inputs
    is_last = channels_last(port)
    axes = ("?",) * 4 if port.axes is None else port.axes
    height, width, channels = (axes[index] for index in ((1, 2, 3) if is_last else (2, 3, 1)))
    config = find_json(folders, MODEL_CONFIG) or {}
    if isinstance(channels, int):
        config = {**config, "num_channels": channels}
    declared = declared_images(config, find_json(folders, PREPROCESSOR), where=str(model.path))
    task_json_hint = "a task.json with an `image` section (size, channels, mean, std) with --task-json"
    if declared.unsupported is not None:
        raise ModelError(
            declared.unsupported.message,
            where=declared.unsupported.where,
            hint=f"Name {task_json_hint}.",
            code=declared.unsupported.code,
        )
    fixed_size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    channel_count = declared.channels
    if channel_count is None or declared.size is None or declared.normalisation is None:
        raise ModelError(
            "it is unknown how images are scaled and normalised for this model",
            where=str(model.path),
            hint=f"Put its {PREPROCESSOR} beside it, or name {task_json_hint}.",
            code="preprocess-undeclared",
        )
    return declared.with_size(fixed_size or declared.size).to_format((), channel_count).as_dict()
