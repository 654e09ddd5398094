"""Checks of a valid profile that the passes themselves provide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compress.core.plugins import call_named
from compress.models.anatomy.table.family import Config
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES
from compress.profile.combination_checks import KeyFault
from compress.profile.model_checks.architecture import student_config
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.pairing import recovery_faults
from compress.profile.schema import Profile
from compress.tasks.table import task_kind


@dataclass(frozen=True)
class PassCheck:
    """A pass of a valid profile, and what is known of its input model from files on this machine.

    Attributes:
        model: source of the model's tokenizer files; None for a fresh model.
        family: its `model_type`; None if unknown.
        config: its config; None if it is unknown until the preceding passes have run.
    """

    profile: Profile
    files: ModelFiles
    index: int
    spec: PassSpec
    model: str | None
    family: str | None
    config: Config | None


def pass_faults(profile: Profile, files: ModelFiles) -> list[KeyFault]:
    """Return the faults that each pass finds, at the keys of the pass."""
    return [
        (("passes", check.index, check.spec.kind, *keys), reason)
        for check in _checks(profile, files)
        for keys, reason in (
            *_call_hook(PASSES[check.spec.kind].faults, check),
            *recovery_faults(
                check.spec,
                check.model,
                profile.teacher.model,
                files,
                by_token=task_kind(profile.task).generates,
            ),
        )
    ]


def pass_warnings(profile: Profile, files: ModelFiles) -> list[str]:
    """Return the warnings of the passes about settings that are likely to disappoint, one sentence each."""
    warnings = [
        warning
        for check in _checks(profile, files)
        for warning in _call_hook(PASSES[check.spec.kind].warnings, check)
    ]
    return list(dict.fromkeys(warnings))


def _call_hook(function: str | None, check: PassCheck) -> Iterator[Any]:
    yield from () if function is None else call_named(function, check)


def _checks(profile: Profile, files: ModelFiles) -> Iterator[PassCheck]:
    model: str | None = profile.teacher.model
    family = files.model_type(model)
    config: Config | None = files.config(model)
    for index, spec in enumerate(profile.specs):
        yield PassCheck(profile, files, index, spec, model, family, config)
        leaves = PASSES[spec.kind].config_after
        if config is not None and leaves is not None:
            config = call_named(leaves, spec, config)
        for _, student in spec.students():
            config = student_config(student, config, files)
            if student.model is not None:
                model, family = student.model, files.model_type(student.model)
            elif student.architecture is not None:
                model, family = None, student.architecture
