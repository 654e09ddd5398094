"""Sections that are written and left empty: their defaults are meant, also where a section may be unset."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from compress.profile.faults import models_at
from compress.profile.schema import Profile
from compress.profile.yaml_lines import Path_, ProfileSource, replaced


def filled(source: ProfileSource) -> ProfileSource:
    """The profile with `{}` for each section that may be unset and has nothing behind its key.

    `augment:` asks for augmentation, as `- export:` asks for a bundle; YAML alone would read `null`, which is none.
    """
    values = source.values
    for path in sorted(source.blank, key=str):
        assigned = any(path[: len(place)] == place for place in source.overridden)
        if path and not assigned and _is_none(values, path) and _is_optional_section(path, values):
            values = replaced(values, path, {})
    return replace(source, values=values)


def _is_none(values: Any, path: Path_) -> bool:
    """Whether a profile says `null` there; not where an assignment put something below it."""
    for part in path:
        try:
            values = values[part]
        except (LookupError, TypeError):
            return False
    return values is None


def _is_optional_section(path: Path_, values: Any) -> bool:
    return any(
        _holds_section(info.annotation)
        for model in models_at(path[:-1], Profile, values)
        for name, info in model.model_fields.items()
        if path[-1] == (info.alias or name)
    )


def _holds_section(annotation: Any) -> bool:
    """Whether this is a section or nothing (`AugmentSpec | None`)."""
    if get_origin(annotation) not in (Union, types.UnionType) or type(None) not in get_args(annotation):
        return False
    bare = (get_args(one)[0] if get_origin(one) is Annotated else one for one in get_args(annotation))
    return any(isinstance(one, type) and issubclass(one, BaseModel) for one in bare)
