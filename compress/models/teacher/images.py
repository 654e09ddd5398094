"""Loading an image classifier from any source, with the image preprocessing described by its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModel, PreTrainedModel

from compress.core.artifacts import MODULE, STRUCTURE, TASK
from compress.core.disk.reading import read_mapping
from compress.core.disk.source_uris import CODE_PREFIX, local_path
from compress.core.errors import ModelError
from compress.models.io.architectures import model_class, read_config
from compress.models.io.checkpoints import load_model
from compress.models.io.plain import Origin, UserModule, make_module
from compress.models.io.pretrained import load_pretrained
from compress.models.io.weights import missing_weights, read_model_json
from compress.models.teacher.heads import align_head
from compress.models.teacher.labels import check_head, check_task, items_of_head, match_labels
from compress.models.teacher.location import (
    PREPROCESSOR,
    PROCESSOR,
    hub_commit,
    model_folder,
)
from compress.profile.schema import TeacherSpec


@dataclass(frozen=True)
class ImageSettings:
    """The image preprocessing described by a model's files: the parsed `config.json` and image processor of
    transformers, or the `image` section of our `task.json`; `where` is the file that describes it."""

    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] | None = None
    image: Mapping[str, Any] | None = None
    where: str | None = None


@dataclass(frozen=True)
class ImageTeacher:
    """A model in memory, its outputs in the order of the data's labels if they are the same.

    `image_settings` is the preprocessing described by its files. `head`: `none`, `as it was` or `matched`. `untrained`
    names weights that its files lack; `commit` is set for a hub model.
    """

    model: nn.Module
    image_settings: ImageSettings
    head: str
    untrained: frozenset[str] = frozenset()
    commit: str | None = None

    @property
    def architecture(self) -> str:
        """Name of the model's class."""
        return type(self.model.module if isinstance(self.model, UserModule) else self.model).__name__


def open_image_teacher(
    task: str, spec: TeacherSpec, labels: Sequence[str], base: Path, *, allow_code: bool, seed: int
) -> ImageTeacher:
    """Load the model of a `TeacherSpec`: a vision model of transformers, or any `nn.Module` built by a function.

    Raises:
        ModelError: it cannot be loaded, is not safetensors, does not take images, or its head does not fit the
            labels and `finetune` is not set.
        UsageError: it is code, and the user did not allow it.
    """
    if spec.model.startswith(CODE_PREFIX):
        return _from_code(spec, labels, base, seed, allow_code)
    folder = model_folder(spec.model, spec.revision, base, task)
    if (problem := missing_weights(folder)) is not None:
        raise problem
    if (folder / MODULE).is_file():
        return _from_user_module(folder, spec, labels, allow_code)
    commit = hub_commit(spec.model, spec.revision) if local_path(spec.model, base) is None else None
    return _from_folder(folder, spec, labels, commit, task)


def describe_images(task: str, labels: Sequence[str], image: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `task.json` for an image model.

    Args:
        image: `size` [height, width], `channels`, and per-channel `mean` and `std`.
    """
    return {
        "task": task,
        "labels": list(labels),
        "input_names": ["pixel_values"],
        "output_names": ["logits"],
        "image": image,
    }


def _from_folder(
    folder: Path, spec: TeacherSpec, labels: Sequence[str], commit: str | None, task: str
) -> ImageTeacher:
    config = read_config(folder)
    values = config.to_dict()
    check_task(values, task, spec.model)
    untrained: frozenset[str] = frozenset()
    if (folder / STRUCTURE).exists():
        model = load_model(folder)
    else:
        kind = model_class(config, folder) if items_of_head(values) else AutoModel
        model, untrained = load_pretrained(kind, folder, config)
    if getattr(model, "main_input_name", None) != "pixel_values":
        raise ModelError(f"a {type(model).__name__} does not take images", where=spec.model)
    assert isinstance(model, PreTrainedModel)
    head = align_head(model, spec, labels)
    return ImageTeacher(model, _image_settings(folder, values), head, untrained, commit)


def _image_settings(folder: Path, config: Mapping[str, Any]) -> ImageSettings:
    """Read the image preprocessing from a transformers folder, or from one of ours that holds such a model.

    Raises:
        ModelError: a file is damaged.
    """
    if (folder / TASK).is_file() and (image := read_mapping(folder / TASK).get("image")) is not None:
        return ImageSettings(config, image=image, where=str(folder / TASK))
    processor = folder / PROCESSOR
    if processor.is_file() and (section := read_mapping(processor).get("image_processor")) is not None:
        return ImageSettings(config, section, where=str(processor))
    preprocessor = folder / PREPROCESSOR
    if preprocessor.is_file():
        return ImageSettings(config, read_mapping(preprocessor), where=str(preprocessor))
    return ImageSettings(config)


def _from_code(
    spec: TeacherSpec, labels: Sequence[str], base: Path, seed: int, allow_code: bool
) -> ImageTeacher:
    origin = Origin.of(spec.model, base)
    module, output_names = make_module(origin, seed, allow_code=allow_code)
    if isinstance(module, PreTrainedModel):
        image_settings = ImageSettings(module.config.to_dict())
        labelled_spec = spec.model_copy(update={"labels": spec.labels or output_names})
        return ImageTeacher(module, image_settings, align_head(module, labelled_spec, labels))
    return _with_outputs_ordered(
        UserModule(module, origin).eval(), spec, spec.labels or output_names, labels, ImageSettings()
    )


def _from_user_module(
    folder: Path, spec: TeacherSpec, labels: Sequence[str], allow_code: bool
) -> ImageTeacher:
    model = load_model(folder, allow_code=allow_code)
    assert isinstance(model, UserModule)
    task_settings = read_model_json(folder / TASK)
    try:
        image_settings = ImageSettings(image=task_settings["image"], where=str(folder / TASK))
        names = spec.labels or tuple(map(str, task_settings["labels"]))
    except (KeyError, TypeError) as error:
        raise ModelError(f"this file is damaged: {error!r}", where=str(folder / TASK)) from error
    return _with_outputs_ordered(model, spec, names, labels, image_settings)


def _with_outputs_ordered(
    model: UserModule,
    spec: TeacherSpec,
    names: Sequence[str] | None,
    labels: Sequence[str],
    image_settings: ImageSettings,
) -> ImageTeacher:
    """Reorder the outputs of a plain model to the labels, if its output names match them."""
    if names is None and spec.finetune is None:
        raise ModelError(
            "the meaning of this model's outputs is not declared",
            where=spec.model,
            hint="Make the function return (module, labels), set `teacher.labels` to their names in order, "
            "or add `teacher.finetune` to train the model on the data.",
        )
    if spec.finetune is None:
        check_head(names, labels, spec.model)
    order = None if names is None else match_labels(names, labels)
    if order is None:
        return ImageTeacher(model, image_settings, "as it was")
    old_order = model.order or tuple(range(len(order)))
    ordered = UserModule(model.module, model.origin, [old_order[index] for index in order])
    return ImageTeacher(ordered.eval(), image_settings, "matched")
