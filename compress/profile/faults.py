"""Convert pydantic errors into faults for the user: with the path as written in the file, and "did you mean" hints."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from compress.core.entries import models_in
from compress.core.errors import Fault
from compress.core.spelling import did_you_mean, nearest
from compress.profile.schema import DataSpec, data_spec
from compress.profile.specs.budget import BudgetSpec, budget_spec
from compress.profile.yaml_lines import KeyPath, ProfileSource
from compress.tasks.table import task_names


def faults_of(error: ValidationError, source: ProfileSource, root: type[BaseModel]) -> list[Fault]:
    """Return the faults of a failed validation in file order, one per path.

    Each branch of a union leaves its own error: those with the same path are merged into one fault, and dropped if the
    same value has a fault at a deeper path.
    """
    messages: dict[KeyPath, list[str]] = {}
    container_paths: set[KeyPath] = set()
    for detail in error.errors(include_url=False):
        path = _written_path(detail, source.values)
        if len(path) < len(detail["loc"]) or detail["type"] == "too_short":
            # pydantic counts invalid entries as missing (`too_short`); the entries have errors of their own.
            container_paths.add(path)
        message = _message(detail, path, root, source.values)
        if message not in messages.setdefault(path, []):
            messages[path].append(message)
    deepest = [
        path
        for path in messages
        if not (
            path in container_paths
            and any(other[: len(path)] == path and other != path for other in messages)
        )
    ]
    faults = [source.fault(path, " or ".join(messages[path])) for path in deepest]
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.path))


def _written_path(detail: ErrorDetails, values: Any) -> KeyPath:
    """Return the path without the names of union branches, which pydantic inserts between the keys."""
    path: list[str | int] = []
    node = values
    parts = detail["loc"]
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        in_mapping = isinstance(node, dict) and part in node
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_mapping or in_list:
            path.append(part)
            node = node[part]
        elif last and detail["type"] == "missing":
            path.append(part)
    return tuple(path)


def _message(detail: ErrorDetails, path: KeyPath, root: type[BaseModel], values: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(path[-1]), _known_keys(path[:-1], root, values))}"
    if kind == "missing":
        return "missing, and it is required"
    if kind == "union_tag_invalid":
        known = [word.strip("'\" ") for word in str(context["expected_tags"]).split(",")]
        return f"unknown name {str(context['tag'])!r}{did_you_mean(str(context['tag']), known)}"
    if kind == "union_tag_not_found":
        known = _known_keys(path, root, values)
        return f"expected one entry of the form `name: {{...}}` with a name of: {', '.join(known)}"
    if kind == "literal_error" and isinstance(value, str):
        known = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"{value!r} is not one of {', '.join(known)}{nearest(value, known)}"
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    message = detail["msg"][0].lower() + detail["msg"][1:]
    message = message.replace("input should be", "should be")
    return f"{message}, not {_abbreviated(value)}"


def _abbreviated(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(path: KeyPath, root: type[BaseModel], values: Any) -> list[str]:
    """Return the keys that the schema allows at `path` of a profile with these values."""
    found = models_at(path, root, values)
    return [info.alias or name for model in found for name, info in model.model_fields.items()]


def models_at(path: KeyPath, root: type[BaseModel], values: Any) -> list[type[BaseModel]]:
    """Return the models that may occur at `path` of a profile with these values."""
    task = values.get("task")
    task_specs: dict[type[BaseModel], type[BaseModel]] = {}
    if task in task_names():
        task_specs = {DataSpec: data_spec(task), BudgetSpec: budget_spec(task)}
    models: list[type[BaseModel]] = [root]
    for part in path:
        if isinstance(part, int):
            continue
        models = [
            task_specs.get(model, model)
            for parent in models
            for name, info in parent.model_fields.items()
            if part in (name, info.alias)
            for model in models_in(info.annotation)
        ]
    return models
