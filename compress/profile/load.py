"""Load a YAML file as a `Profile`, or raise one error that lists every fault as `file:line: path: what is wrong`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.core.disk.source_uris import CODE, CONFIG, SKLEARN, local_path, missing_source
from compress.core.errors import Fault, ModelError, ProfileError
from compress.models.anatomy.table.families import FAMILY_UNSUPPORTED
from compress.profile.blank_sections import fill_empty_sections
from compress.profile.chain import chain_faults
from compress.profile.combination_checks import Found, key_faults, teaching_faults
from compress.profile.faults import faults_of
from compress.profile.model_checks.checkpoints import checkpoint_faults
from compress.profile.model_checks.families import family_faults
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.fit import fit_problems
from compress.profile.pass_checks import pass_faults, pass_warnings
from compress.profile.schema import Profile
from compress.profile.yaml_lines import KeyPath, ProfileSource, override, read_source
from compress.tasks.table import writing_task


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
        found = [
            *teaching_faults(profile),
            *pass_faults(profile, files),
            *_further_source_faults(profile, source.base),
            *_hub_key_faults(profile, source.base),
        ]
        faults += [source.fault(path, why) for path, why in found]
        faults += [
            source.fault(path, why, FAMILY_UNSUPPORTED, ModelError.exit_code)
            for path, why in family_faults(profile, files)
        ]
        faults += [
            source.fault(path, problem.message, problem.code, ModelError.exit_code)
            for path, problem in (*checkpoint_faults(profile, files), *fit_problems(profile, files))
        ]
    faults += [source.fault(path, why) for path, why in key_faults(source.values)]
    known = {fault.path for fault in faults}
    form = files.form(_text_at(source.values, "teacher", "model"))
    chain = chain_faults(source, form)
    faults += [fault for fault in (*chain, *_source_faults(source)) if fault.path not in known]
    warnings = () if profile is None else tuple(pass_warnings(profile, files))
    return profile, tuple(sorted(faults, key=lambda fault: fault.line or 0)), warnings


def named_models(profile: Profile) -> list[tuple[KeyPath, str, str]]:
    """Return the models that a valid profile names, its teacher first, as (path in the profile, source, task)."""
    task, generated = profile.task, profile.data.generated
    named: list[tuple[KeyPath, str, str]] = [(("teacher", "model"), profile.teacher.model, task)]
    for index, spec in enumerate(profile.specs):
        named += [(("passes", index, spec.kind, *one.key), one.model, task) for one in spec.named_models()]
    if generated is not None:
        named.append((("data", "unlabeled", "generate", "model"), generated.model, writing_task()))
    return named


def _source_faults(source: ProfileSource) -> list[Fault]:
    """Return faults for local folders, files and packages that the profile names but that do not exist."""
    faults = []
    for section, key in (("data", "path"), ("teacher", "model")):
        value = _text_at(source.values, section, key)
        problem = missing_source(value, source.base) if value else None
        if problem:
            faults.append(source.fault((section, key), problem))
    return faults


def _further_source_faults(profile: Profile, base: Path) -> list[Found]:
    """Return faults for missing sources other than the teacher and the data of a valid profile."""
    named = [(path, model) for path, model, _ in named_models(profile)[1:]]
    if profile.data.further is not None:
        named.insert(0, (("data", "unlabeled", "path"), profile.data.further.path))
    described = profile.teacher.config
    if described is not None and isinstance(described.tokenizer, str):
        named.insert(0, (("teacher", "config", "tokenizer"), described.tokenizer))
    checked = [(path, missing_source(name, base)) for path, name in named]
    return [(path, problem) for path, problem in checked if problem is not None]


def _hub_key_faults(profile: Profile, base: Path) -> Iterator[Found]:
    """Yield the hub-only keys (`name`, `revision`) that are set for sources that are not on the hub."""
    data, teacher, generated = profile.data, profile.teacher, profile.data.generated
    named: list[tuple[KeyPath, str, dict[str, str | None]]] = [
        (("data",), data.path, {"name": data.name, "revision": data.revision}),
        (("teacher",), teacher.model, {"revision": teacher.revision}),
    ]
    if (further := data.further) is not None:
        keys = {"name": further.name, "revision": further.revision}
        named.append((("data", "unlabeled"), further.path, keys))
    if generated is not None:
        place: KeyPath = ("data", "unlabeled", "generate")
        named.append((place, generated.model, {"revision": generated.revision}))
    for index, spec in enumerate(profile.specs):
        for one in spec.named_models():
            named.append((("passes", index, spec.kind, *one.key[:-1]), one.model, {"revision": one.revision}))
    for path, source, keys in named:
        if not _is_of_hub(source, base):
            for key in (key for key, value in keys.items() if value is not None):
                yield (*path, key), f"only for what is on the hub, and {source} is not: leave `{key}` out"


def _is_of_hub(source: str, base: Path) -> bool:
    if source.startswith((CODE, CONFIG, SKLEARN)):
        return False
    try:
        return local_path(source, base) is None
    except ModelError:
        # A missing source is reported by the other checks.
        return True


def _text_at(values: dict[str, Any], section: str, key: str) -> str | None:
    body = values.get(section)
    value = body.get(key) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None
