"""YAML file -> `Profile`, or one error that lists every fault as `file:line: path: what is wrong`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.errors import Fault, ProfileError
from compress.package_paths import missing_source
from compress.profile.chain import chain_faults
from compress.profile.faults import faults_of
from compress.profile.schema import Profile
from compress.profile.source import ProfileSource, override, read_source


@dataclass(frozen=True)
class LoadedProfile:
    """A valid profile and the text it was read from."""

    profile: Profile
    source: ProfileSource


def load_profile(file: Path, assignments: tuple[str, ...] = ()) -> LoadedProfile:
    """Read and check a profile; nothing is downloaded and nothing in it is executed.

    Args:
        file: the YAML file; paths in it resolve against its folder.
        assignments: `path=value` overrides, applied before the check.

    Raises:
        ProfileError: every fault that was found: schema, order of the passes, sources that do not exist.
    """
    source = override(read_source(file), assignments)
    profile: Profile | None = None
    faults: list[Fault] = []
    try:
        profile = Profile.model_validate(source.values)
    except ValidationError as error:
        faults += faults_of(error, source, Profile)
    known = {fault.path for fault in faults}
    faults += [fault for fault in (*chain_faults(source), *_source_faults(source)) if fault.path not in known]
    if faults or profile is None:
        raise ProfileError(sorted(faults, key=lambda fault: fault.line or 0))
    return LoadedProfile(profile, source)


def _source_faults(source: ProfileSource) -> list[Fault]:
    """Local folders, files and packages that the profile names and that do not exist."""
    faults = []
    for section, key in (("data", "path"), ("teacher", "model")):
        value = _text_at(source.values, section, key)
        problem = missing_source(value, source.base) if value else None
        if problem:
            faults.append(source.fault((section, key), problem))
    return faults


def _text_at(values: dict[str, Any], section: str, key: str) -> str | None:
    body = values.get(section)
    value = body.get(key) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None
