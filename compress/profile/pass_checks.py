"""What the passes themselves check of a valid profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compress.core.plugins import call
from compress.models.anatomy.table.family import Config
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES
from compress.profile.combination_checks import Found
from compress.profile.model_checks.architecture import student_config
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.pairing import recovery_faults
from compress.profile.schema import Profile
from compress.tasks.table import task_kind


@dataclass(frozen=True)
class PassCheck:
    """A pass of a valid profile, and what files on this machine tell of the model that it gets.

    `model` is the source whose files tell of its tokenizer, None of a fresh one; `family` its `model_type`, None where
    that is not known. `config` is what its config says, None where nobody knows it before the
    passes before it are done.
    """

    profile: Profile
    files: ModelFiles
    index: int
    spec: PassSpec
    model: str | None
    family: str | None
    config: Config | None


def pass_faults(profile: Profile, files: ModelFiles) -> list[Found]:
    """What each pass finds wrong, at its keys."""
    return [
        (("passes", check.index, check.spec.kind, *keys), why)
        for check in _checks(profile, files)
        for keys, why in (
            *_asked(PASSES[check.spec.kind].faults, check),
            *recovery_faults(
                check.spec, check.model, profile.teacher.model, files, by_token=task_kind(profile.task).writes
            ),
        )
    ]


def pass_warnings(profile: Profile, files: ModelFiles) -> list[str]:
    """What the passes find likely to disappoint, a sentence each."""
    found = [
        why for check in _checks(profile, files) for why in _asked(PASSES[check.spec.kind].warnings, check)
    ]
    return list(dict.fromkeys(found))


def _asked(function: str | None, check: PassCheck) -> Iterator[Any]:
    yield from () if function is None else call(function, check)


def _checks(profile: Profile, files: ModelFiles) -> Iterator[PassCheck]:
    model: str | None = profile.teacher.model
    family = files.model_type(model)
    config: Config | None = files.config(model)
    for index, spec in enumerate(profile.specs):
        yield PassCheck(profile, files, index, spec, model, family, config)
        leaves = PASSES[spec.kind].leaves
        if config is not None and leaves is not None:
            config = call(leaves, spec, config)
        for _, student in spec.students():
            config = student_config(student, config, files)
            if student.model is not None:
                model, family = student.model, files.model_type(student.model)
            elif student.architecture is not None:
                model, family = None, student.architecture
