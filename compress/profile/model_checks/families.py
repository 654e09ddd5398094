"""Limits of the model families in a profile, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compress.core.forms import TORCH_FLOAT, Framework, Structure
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import (
    families_that_can,
    why_not_corrected,
    why_not_generating,
    why_not_lowered,
    why_not_taken_apart,
)
from compress.models.anatomy.table.family import Config
from compress.passes.contract import PassSpec
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.gguf import header_config, header_fields, why_not_cut
from compress.profile.schema import Profile
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import task_kind, writing_task


def family_faults(profile: Profile, files: ModelFiles) -> Iterator[Found]:
    """Yield what the families of the models in a valid profile cannot do, as far as their configs are known."""
    config = files.config(profile.teacher.model)
    lowered = _is_lowered(profile, profile.specs)
    yield from _unusable(("teacher", "model"), profile.teacher.model, profile.task, files, lowered=lowered)
    if (generate := profile.data.generated) is not None:
        place: KeyPath = ("data", "unlabeled", "generate", "model")
        yield from _unusable(place, generate.model, writing_task(), files)
    fresh = profile.teacher.config
    if fresh is not None and isinstance(fresh.tokenizer, str):
        file = files.folder(fresh.tokenizer)
        if file is not None and file.is_file():
            yield from _uncut(("teacher", "config", "tokenizer"), header_fields(file))
    kind = _kind(config)
    finetune = profile.teacher.finetune
    adapted = finetune is not None and finetune.lora is not None
    if adapted and kind is not None and (why := why_not_corrected(kind)) is not None:
        yield ("teacher", "finetune", "lora"), f"{why}; leave `lora` out"
    if adapted and files.form(profile.teacher.model).structure is Structure.FACTORED:
        yield (
            ("teacher", "finetune", "lora"),
            "the linear layers of this model are factored, and LoRA needs whole ones; leave `lora` out",
        )
    for index, spec in enumerate(profile.specs):
        place = ("passes", index, spec.kind)
        for key, student in spec.students():
            if student.model is not None:
                config, further = files.config(student.model), profile.specs[index + 1 :]
                lowered = _is_lowered(profile, further)
                yield from _unusable(
                    (*place, *key, "model"), student.model, profile.task, files, lowered=lowered
                )
                kind = _kind(config)
            elif student.architecture is not None:
                kind = student.architecture
            elif _cut_by_groups(kind, profile.task):
                continue
            elif kind is not None and (why := why_not_taken_apart(kind)) is not None:
                yield (
                    (*place, *key),
                    f"{why}; name a ready-made student with `model`, or leave `{spec.kind}` out and quantize",
                )
        if kind is not None and (why := why_not_taken_apart(kind)) is not None:
            known = ", ".join(families_that_can("take apart"))
            yield from ((place + key, f"{why}; known: {known}") for key in spec.takes_apart(kind))


def _unusable(
    place: KeyPath, model: str, task: str, files: ModelFiles, *, lowered: bool = False
) -> Iterator[Found]:
    """Yield why a model cannot do the task, or cannot be exported to ONNX where it has to be (`lowered`)."""
    config: Config | None = files.config(model)
    writes, folder = task_kind(task).writes, files.folder(model)
    if writes and folder is not None and folder.is_file():
        fields = header_fields(folder)
        config = header_config(fields)
        yield from _uncut(place, fields)
    if config is not None and (writes or lowered):
        yield from _unlowered(place, config, task)


def _uncut(place: KeyPath, fields: Mapping[str, str]) -> Iterator[Found]:
    """Yield why the tokenizer described in a GGUF header cannot be reproduced."""
    if (why := why_not_cut(fields)) is not None:
        yield place, why


def _unlowered(place: KeyPath, config: Config, task: str) -> Iterator[Found]:
    kind = task_kind(task)
    if kind.writes:
        why, known = why_not_generating(config), sorted(DECODERS)
    else:
        why = why_not_lowered(config, embeds=kind.head == "pooled")
        known = families_that_can("lower", f"{kind.items}s")
    if why is not None:
        yield place, f"{why}; name a model of one of these families: {', '.join(known)}"


def _is_lowered(profile: Profile, further: tuple[PassSpec, ...]) -> bool:
    """Whether a model followed by these passes is exported to ONNX, for a target or by one of the passes."""
    for spec in further:
        if any(student.model is not None for _, student in spec.students()[-1:]):
            break
        if spec.produces(TORCH_FLOAT).framework is Framework.ONNX:
            return True
    return any(target.runtime == "onnxruntime" for target in profile.targets)


def _cut_by_groups(kind: str | None, task: str) -> bool:
    """Whether students of a model are decoders cut out of a decoder."""
    return kind in DECODERS and task_kind(task).writes


def _kind(config: Config | None) -> str | None:
    kind = None if config is None else config.get("model_type")
    return kind if isinstance(kind, str) else None
