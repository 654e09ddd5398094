"""The source of an image classifier: what it does not say of its images is taken from the training split."""

from __future__ import annotations

from typing import Any

from compress.artifacts import TASK
from compress.errors import ModelError
from compress.files import write_json
from compress.models.checkpoints import count_parameters, save_model
from compress.models.image_teachers import ImageTeacher, describe_images, open_image_teacher
from compress.models.plain import PlainModel, image_outputs
from compress.profile.schema import TeacherSpec
from compress.step import StepContext
from compress.tasks.images import ImageFormat, complete_format


def materialise_images(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the model of a `TeacherSpec` and its `task.json` to `ctx.out`.

    Size: `data.image_size`, else what the model says, else that of the first training image. Mean and standard
    deviation: what the model's preprocessor says, else those of the training split's pixels.

    Returns:
        facts: `parameters`, `architecture`, `source`, `commit` of a hub model, `head`, and `image`.

    Raises:
        ModelError: the model cannot be had or used, or takes no such images.
    """
    labels = ctx.data.labels
    teacher = open_image_teacher(spec, labels, ctx.base, allow_code=ctx.allow_code, seed=ctx.seed)
    declared = teacher.declared
    if declared.channels not in (None, 1, 3):
        raise ModelError(
            f"the model takes images of {declared.channels} channels; images here have 1 or 3",
            where=spec.model,
        )
    image = complete_format(
        ctx.data.train.items,
        size=ctx.task.data.image_size or declared.size,
        channels=declared.channels,
        normalisation=declared.normalisation,
    )
    if teacher.head != "none":
        _check_outputs(teacher, image, len(labels), spec.model)
    save_model(teacher.model, ctx.out, leave_out=teacher.untrained)
    write_json(ctx.out / TASK, describe_images(labels, image.as_dict()))
    facts = {
        "parameters": count_parameters(teacher.model),
        "architecture": teacher.architecture,
        "source": spec.model,
        "head": teacher.head,
        "image": image.as_dict(),
    }
    return facts if teacher.commit is None else {**facts, "commit": teacher.commit}


def _check_outputs(teacher: ImageTeacher, image: ImageFormat, labels: int, where: str) -> None:
    """The model takes such images; a plain one, whose head nobody can replace, has an output for each label."""
    model = teacher.model
    plain = isinstance(model, PlainModel)
    if isinstance(model, PlainModel) and model.order is not None:
        model = PlainModel(model.module, model.origin)
    outputs = image_outputs(model, image.channels, image.size, where)
    if outputs != labels and (plain or teacher.head == "matched"):
        raise ModelError(
            f"this model has {outputs} outputs, but the data has {labels} labels",
            where=where,
            hint=f"Let the function build a model with {labels} outputs." if plain else None,
        )
