"""Load a YAML file as a `Profile`, or raise one error that lists every fault as `file:line: path: what is wrong`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.core.disk.source_uris import (
    CODE_PREFIX,
    CONFIG_PREFIX,
    SKLEARN_PREFIX,
    local_path,
    source_fault,
)
from compress.core.errors import Fault, ModelError, ProfileError
from compress.models.anatomy.table.families import FAMILY_UNSUPPORTED
from compress.profile.blank_sections import fill_empty_sections
from compress.profile.chain import chain_faults
from compress.profile.combination_checks import KeyFault, combination_faults, key_faults
from compress.profile.faults import faults_of
from compress.profile.model_checks.checkpoints import checkpoint_faults
from compress.profile.model_checks.families import family_faults
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.fit import fit_problems
from compress.profile.pass_checks import pass_faults, pass_warnings
from compress.profile.schema import Profile
from compress.profile.yaml_lines import KeyPath, ProfileSource, override, read_source
from compress.tasks.table import generative_task


@dataclass(frozen=True)
class LoadedProfile:
    """A valid profile, its source text, and warnings about settings that are likely to disappoint."""

    profile: Profile
    source: ProfileSource
    warnings: tuple[str, ...] = ()


def load_profile(file: Path, assignments: tuple[str, ...] = ()) -> LoadedProfile:
    """Read and check a profile; nothing is downloaded and no code that it names is executed.

    Args:
        file: the YAML file; relative paths in it are resolved against its folder.
        assignments: `path=value` overrides, applied before the check.

    Raises:
        ProfileError: with every fault found: schema, order of the passes, missing sources.
    """
    source = override(read_source(file), assignments)
    profile, faults, warnings = read_profile(source, ModelFiles(source.base))
    if faults or profile is None:
        raise ProfileError(faults)
    return LoadedProfile(profile, source, warnings)


def read_profile(
    source: ProfileSource, files: ModelFiles
) -> tuple[Profile | None, tuple[Fault, ...], tuple[str, ...]]:
    """Return the profile (None if it does not follow the schema), all its faults, and warnings."""
    source = fill_empty_sections(source)
    profile: Profile | None = None
    faults: list[Fault] = []
    try:
        profile = Profile.model_validate(source.values)
    except ValidationError as error:
        faults += faults_of(error, source, Profile)
    if profile is not None:
        findings = [
            *combination_faults(profile),
            *pass_faults(profile, files),
            *_other_source_faults(profile, source.base),
            *_hub_key_faults(profile, source.base),
        ]
        faults += [source.fault(path, reason) for path, reason in findings]
        faults += [
            source.fault(path, reason, FAMILY_UNSUPPORTED, ModelError.exit_code)
            for path, reason in family_faults(profile, files)
        ]
        faults += [
            source.fault(path, problem.message, problem.code, ModelError.exit_code)
            for path, problem in (*checkpoint_faults(profile, files), *fit_problems(profile, files))
        ]
    faults += [source.fault(path, reason) for path, reason in key_faults(source.values)]
    reported_paths = {fault.path for fault in faults}
    form = files.form(_string_at(source.values, "teacher", "model"))
    chain = chain_faults(source, form)
    faults += [fault for fault in (*chain, *_source_faults(source)) if fault.path not in reported_paths]
    warnings = () if profile is None else tuple(pass_warnings(profile, files))
    return profile, tuple(sorted(faults, key=lambda fault: fault.line or 0)), warnings


def named_models(profile: Profile) -> list[tuple[KeyPath, str, str]]:
    """Return the models that a valid profile names, its teacher first, as (path in the profile, source, task)."""
    task, generated = profile.task, profile.data.generate_spec
    models: list[tuple[KeyPath, str, str]] = [(("teacher", "model"), profile.teacher.model, task)]
    for index, spec in enumerate(profile.specs):
        models += [
            (("passes", index, spec.kind, *named_model.key), named_model.model, task)
            for named_model in spec.named_models()
        ]
    if generated is not None:
        models.append((("data", "unlabeled", "generate", "model"), generated.model, generative_task()))
    return models


def _source_faults(source: ProfileSource) -> list[Fault]:
    """Return faults for local folders, files and packages that the profile names but that do not exist."""
    faults = []
    for section, key in (("data", "path"), ("teacher", "model")):
        value = _string_at(source.values, section, key)
        problem = source_fault(value, source.base) if value else None
        if problem:
            faults.append(source.fault((section, key), problem))
    return faults


def _other_source_faults(profile: Profile, base: Path) -> list[KeyFault]:
    """Return faults for missing sources other than the teacher and the data of a valid profile."""
    sources = [(path, model) for path, model, _ in named_models(profile)[1:]]
    if profile.data.existing_unlabeled is not None:
        sources.insert(0, (("data", "unlabeled", "path"), profile.data.existing_unlabeled.path))
    config = profile.teacher.config
    if config is not None and isinstance(config.tokenizer, str):
        sources.insert(0, (("teacher", "config", "tokenizer"), config.tokenizer))
    checked = [(path, source_fault(name, base)) for path, name in sources]
    return [(path, problem) for path, problem in checked if problem is not None]


def _hub_key_faults(profile: Profile, base: Path) -> Iterator[KeyFault]:
    """Yield the hub-only keys (`name`, `revision`) that are set for sources that are not on the hub."""
    data, teacher, generated = profile.data, profile.teacher, profile.data.generate_spec
    sources: list[tuple[KeyPath, str, dict[str, str | None]]] = [
        (("data",), data.path, {"name": data.name, "revision": data.revision}),
        (("teacher",), teacher.model, {"revision": teacher.revision}),
    ]
    if (unlabeled := data.existing_unlabeled) is not None:
        keys = {"name": unlabeled.name, "revision": unlabeled.revision}
        sources.append((("data", "unlabeled"), unlabeled.path, keys))
    if generated is not None:
        key_path: KeyPath = ("data", "unlabeled", "generate")
        sources.append((key_path, generated.model, {"revision": generated.revision}))
    for index, spec in enumerate(profile.specs):
        for model in spec.named_models():
            sources.append(
                (("passes", index, spec.kind, *model.key[:-1]), model.model, {"revision": model.revision})
            )
    for path, source, keys in sources:
        if not _is_on_hub(source, base):
            for key in (key for key, value in keys.items() if value is not None):
                yield (*path, key), f"only for what is on the hub, and {source} is not: leave `{key}` out"


def _is_on_hub(source: str, base: Path) -> bool:
    if source.startswith((CODE_PREFIX, CONFIG_PREFIX, SKLEARN_PREFIX)):
        return False
    try:
        return local_path(source, base) is None
    except ModelError:
        # A missing source is reported by the other checks.
        return True


def _string_at(values: dict[str, Any], section: str, key: str) -> str | None:
    body = values.get(section)
    value = body.get(key) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None
