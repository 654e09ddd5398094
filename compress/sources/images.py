"""Source step of an image classifier. The image preprocessing is what the model's files declare; only a model that is
trained here may derive it from the training split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.core.artifacts import TASK
from compress.core.disk.files import write_json
from compress.core.disk.source_uris import CODE_PREFIX as CODE_SOURCE
from compress.core.errors import ModelError
from compress.data.splits import Item
from compress.encoding.images import ImageFormat, common_channels, median_size
from compress.encoding.preprocessing import (
    FAULT_CODE,
    DeclaredImages,
    declared_images,
    declared_in_profile,
    declared_in_task,
)
from compress.models.io.checkpoints import count_parameters, save_model
from compress.models.io.plain import UserModule, image_outputs
from compress.models.teacher.images import ImageSettings, ImageTeacher, describe_images, open_image_teacher
from compress.profile.schema import DataSpec, TeacherSpec
from compress.sources.module_checks import check_module, is_randomly_initialized
from compress.sources.module_images import accepted_preprocessing
from compress.step import StepContext

UNDECLARED = "preprocess-undeclared"


def write_image_model(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the model of a `TeacherSpec` and its `task.json` to `ctx.out`.

    Image preprocessing comes from the model's files, else from `data.preprocess`. What both leave open is derived from
    the training split; this is an error for a trained model that is not trained further here.

    Returns:
        facts: `parameters`, `architecture`, `source`, `commit` of a hub model, `head`, `image`, and `notes` on what was
        derived from the data.

    Raises:
        ModelError: the model is not available or not usable, does not accept such images, or its preprocessing is not
            declared.
    """
    labels, items = ctx.data.labels, ctx.data.train.items
    teacher = open_image_teacher(
        ctx.task.kind.name, spec, labels, ctx.base, allow_code=ctx.allow_code, seed=ctx.seed
    )
    declared, notes = _complete_size(
        declared_preprocessing(teacher.image_settings, ctx.task.data, spec.model), teacher, items, spec.model
    )
    assert declared.size is not None
    assert declared.channels is not None
    shape = (declared.channels, *declared.size)
    from_code = spec.model.startswith(CODE_SOURCE)
    if from_code and isinstance(teacher.model, UserModule):
        check_module(teacher.model, shape, trained=spec.finetune is not None)
    if declared.normalisation is None and spec.finetune is None:
        if not (from_code and is_randomly_initialized(teacher.model, spec.model, ctx.base, shape)):
            raise ModelError(
                "this model's image preprocessing is not declared (size, crop, mean and standard deviation, channel "
                "order), and it is used without training",
                where=spec.model,
                hint="Declare it in `data.preprocess`, or in the preprocessor_config.json of a transformers folder; or "
                "train the model on the data with `teacher.finetune`.",
                code=UNDECLARED,
            )
        notes.append(
            f"{spec.model} is untrained: its weights are random. Its image preprocessing is not declared, so images "
            "are normalised with the mean and standard deviation of the training images"
        )
    image = declared.to_format(items, declared.channels)
    if teacher.head != "none":
        _check_outputs(teacher, image, len(labels), spec.model)
    save_model(teacher.model, ctx.out, leave_out=teacher.untrained)
    write_json(ctx.out / TASK, describe_images(ctx.task.kind.name, labels, image.as_dict()))
    return {
        "parameters": count_parameters(teacher.model),
        "architecture": teacher.architecture,
        "source": spec.model,
        "head": teacher.head,
        "image": image.as_dict(),
        **({"notes": notes} if notes else {}),
        **({} if teacher.commit is None else {"commit": teacher.commit}),
    }


def declared_preprocessing(settings: ImageSettings, data: DataSpec, where: str) -> DeclaredImages:
    """Return the image preprocessing that a model's files or the profile declare, at the size that the profile sets.

    Raises:
        ModelError: the files are damaged, declare unsupported preprocessing, or contradict the profile.
    """
    try:
        if settings.image is not None:
            from_model = declared_in_task(settings.image)
        else:
            from_model = declared_images(settings.config, settings.preprocessor, settings.where or where)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"this file is damaged: {error}", where=settings.where or where) from error
    if data.preprocess is None:
        if from_model.unsupported is not None:
            raise from_model.unsupported
        return from_model.with_size(data.image_size)
    from_profile = declared_in_profile(data.preprocess)
    if from_model.normalisation is not None and not _same_preprocessing(from_model, from_profile):
        raise ModelError(
            f"{settings.where or where} already declares this model's image preprocessing, and differently: "
            f"{from_model.to_format((), from_model.channels or 3).as_dict()}",
            where="data.preprocess",
            hint="Leave `preprocess` out; `image_size` sets another size.",
            code=FAULT_CODE,
        )
    return DeclaredImages(
        from_profile.size, from_model.channels, from_profile.normalisation, from_profile.framing
    )


def _same_preprocessing(from_model: DeclaredImages, from_profile: DeclaredImages) -> bool:
    channels = from_model.channels or 3
    first, second = (declared.to_format((), channels).as_dict() for declared in (from_model, from_profile))
    return {**first, "transparency": None} == {**second, "transparency": None}


def _complete_size(
    declared: DeclaredImages, teacher: ImageTeacher, items: Sequence[Item], where: str
) -> tuple[DeclaredImages, list[str]]:
    """Complete size and channels: those of the model (of a plain module, found by running it), else the data's."""
    if isinstance(teacher.model, UserModule):
        return accepted_preprocessing(teacher.model, declared, items, where)
    if declared.channels not in (None, 1, 3):
        raise ModelError(
            f"the model takes images of {declared.channels} channels; only 1 or 3 are supported", where=where
        )
    size, note = (declared.size, None) if declared.size is not None else median_size(items)
    completed = declared.with_size(size).with_channels(declared.channels or common_channels(items))
    return completed, [] if note is None else [note]


def _check_outputs(teacher: ImageTeacher, image: ImageFormat, num_labels: int, where: str) -> None:
    """Check that the model accepts the images and, if its head is used unchanged, has one output per label."""
    model = teacher.model
    is_user_module = isinstance(model, UserModule)
    if isinstance(model, UserModule) and model.order is not None:
        model = UserModule(model.module, model.origin)
    num_outputs = image_outputs(model, image.channels, image.size, where)
    if num_outputs != num_labels and (is_user_module or teacher.head == "matched"):
        raise ModelError(
            f"this model has {num_outputs} outputs, but the data has {num_labels} labels",
            where=where,
            hint=f"Make the function build a model with {num_labels} outputs." if is_user_module else None,
        )
