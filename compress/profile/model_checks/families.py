"""Limits of the model families in a profile, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compress.core.forms import TORCH_FLOAT, Framework, Structure
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import (
    families_supporting,
    why_not_corrected,
    why_not_generating,
    why_not_lowered,
    why_not_taken_apart,
)
from compress.models.anatomy.table.family import Config
from compress.passes.contract import PassSpec
from compress.profile.combination_checks import KeyFault
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.gguf import header_config, header_fields, why_tokenizer_unsupported
from compress.profile.schema import Profile
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import generative_task, task_kind


def family_faults(profile: Profile, files: ModelFiles) -> Iterator[KeyFault]:
    """Yield what the families of the models in a valid profile cannot do, as far as their configs are known."""
    config = files.config(profile.teacher.model)
    exported = _is_exported(profile, profile.specs)
    yield from _model_faults(
        ("teacher", "model"), profile.teacher.model, profile.task, files, exported=exported
    )
    if (generate := profile.data.generate_spec) is not None:
        path: KeyPath = ("data", "unlabeled", "generate", "model")
        yield from _model_faults(path, generate.model, generative_task(), files)
    decoder_spec = profile.teacher.config
    if decoder_spec is not None and isinstance(decoder_spec.tokenizer, str):
        file = files.folder(decoder_spec.tokenizer)
        if file is not None and file.is_file():
            yield from _tokenizer_faults(("teacher", "config", "tokenizer"), header_fields(file))
    model_type = _model_type(config)
    finetune = profile.teacher.finetune
    uses_lora = finetune is not None and finetune.lora is not None
    if uses_lora and model_type is not None and (why := why_not_corrected(model_type)) is not None:
        yield ("teacher", "finetune", "lora"), f"{why}; leave `lora` out"
    if uses_lora and files.form(profile.teacher.model).structure is Structure.FACTORED:
        yield (
            ("teacher", "finetune", "lora"),
            "the linear layers of this model are factored, and LoRA needs whole ones; leave `lora` out",
        )
    for index, spec in enumerate(profile.specs):
        path = ("passes", index, spec.kind)
        for key, student in spec.students():
            if student.model is not None:
                config, later_passes = files.config(student.model), profile.specs[index + 1 :]
                exported = _is_exported(profile, later_passes)
                yield from _model_faults(
                    (*path, *key, "model"), student.model, profile.task, files, exported=exported
                )
                model_type = _model_type(config)
            elif student.architecture is not None:
                model_type = student.architecture
            elif _students_are_decoders(model_type, profile.task):
                continue
            elif model_type is not None and (why := why_not_taken_apart(model_type)) is not None:
                yield (
                    (*path, *key),
                    f"{why}; name a ready-made student with `model`, or leave `{spec.kind}` out and quantize",
                )
        if model_type is not None and (why := why_not_taken_apart(model_type)) is not None:
            known = ", ".join(families_supporting("take apart"))
            yield from ((path + key, f"{why}; known: {known}") for key in spec.removal_keys(model_type))


def _model_faults(
    path: KeyPath, model: str, task: str, files: ModelFiles, *, exported: bool = False
) -> Iterator[KeyFault]:
    """Yield why a model cannot do the task, or cannot be exported to ONNX where it has to be (`exported`)."""
    config: Config | None = files.config(model)
    writes, model_path = task_kind(task).generates, files.folder(model)
    if writes and model_path is not None and model_path.is_file():
        fields = header_fields(model_path)
        config = header_config(fields)
        yield from _tokenizer_faults(path, fields)
    if config is not None and (writes or exported):
        yield from _export_faults(path, config, task)


def _tokenizer_faults(path: KeyPath, fields: Mapping[str, str]) -> Iterator[KeyFault]:
    """Yield why the tokenizer described in a GGUF header cannot be reproduced."""
    if (why := why_tokenizer_unsupported(fields)) is not None:
        yield path, why


def _export_faults(path: KeyPath, config: Config, task: str) -> Iterator[KeyFault]:
    kind = task_kind(task)
    if kind.generates:
        why, known = why_not_generating(config), sorted(DECODERS)
    else:
        why = why_not_lowered(config, embeds=kind.head == "pooled")
        known = families_supporting("lower", f"{kind.items}s")
    if why is not None:
        yield path, f"{why}; name a model of one of these families: {', '.join(known)}"


def _is_exported(profile: Profile, later_passes: tuple[PassSpec, ...]) -> bool:
    """Whether a model followed by these passes is exported to ONNX, for a target or by one of the passes."""
    for spec in later_passes:
        if any(student.model is not None for _, student in spec.students()[-1:]):
            break
        if spec.produces(TORCH_FLOAT).framework is Framework.ONNX:
            return True
    return any(target.runtime == "onnxruntime" for target in profile.targets)


def _students_are_decoders(kind: str | None, task: str) -> bool:
    """Whether students of a model are decoders cut out of a decoder."""
    return kind in DECODERS and task_kind(task).generates


def _model_type(config: Config | None) -> str | None:
    kind = None if config is None else config.get("model_type")
    return kind if isinstance(kind, str) else None
