"""Sections written without a value: an empty section means its defaults, even where the section is optional."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from compress.profile.faults import models_at
from compress.profile.schema import Profile
from compress.profile.yaml_lines import KeyPath, ProfileSource, with_value


def fill_empty_sections(source: ProfileSource) -> ProfileSource:
    """Return the profile with `{}` for every optional section whose key has no value.

    `augment:` requests augmentation with its defaults, as `- export:` requests a bundle; plain YAML reads both as
    `null`, which would disable the section.
    """
    values = source.values
    for path in sorted(source.blank, key=str):
        assigned = any(
            path[: len(overridden_path)] == overridden_path for overridden_path in source.overridden
        )
        if path and not assigned and _is_null_at(values, path) and _is_optional_section(path, values):
            values = with_value(values, path, {})
    return replace(source, values=values)


def _is_null_at(values: Any, path: KeyPath) -> bool:
    """Whether the value at `path` is `null`; False if an assignment has put something below it."""
    for part in path:
        try:
            values = values[part]
        except (LookupError, TypeError):
            return False
    return values is None


def _is_optional_section(path: KeyPath, values: Any) -> bool:
    return any(
        _allows_section(info.annotation)
        for model in models_at(path[:-1], Profile, values)
        for name, info in model.model_fields.items()
        if path[-1] == (info.alias or name)
    )


def _allows_section(annotation: Any) -> bool:
    """Whether an annotation is an optional section (`AugmentSpec | None`)."""
    if get_origin(annotation) not in (Union, types.UnionType) or type(None) not in get_args(annotation):
        return False
    members = (
        get_args(member)[0] if get_origin(member) is Annotated else member for member in get_args(annotation)
    )
    return any(isinstance(member, type) and issubclass(member, BaseModel) for member in members)
