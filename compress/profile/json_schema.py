"""JSON schema of the profile (draft 2020-12), for completion, descriptions and validation in editors."""

from __future__ import annotations

from typing import Any, TypeVar

from compress.core.spec import PassSpecBase
from compress.losses.table import LOSSES
from compress.profile.schema import DataSpec, Profile, data_spec
from compress.profile.specs.budget import BudgetSpec, budget_spec
from compress.tasks.table import task_names

_Kind = TypeVar("_Kind", bound=PassSpecBase)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema of a profile: every key with its type, limits, default and description.

    A section whose keys all have defaults may be left empty, as the loader allows (`- export:`).
    """
    schema: dict[str, Any] = _one_line_descriptions(Profile.model_json_schema(by_alias=True))
    _add_keys_of_tasks(schema)
    may_be_empty = {model.__name__ for model in _subclasses(PassSpecBase)}
    for name, definition in schema["$defs"].items():
        if name in may_be_empty and not definition.get("required") and "oneOf" not in definition:
            definition["type"] = ["object", "null"]
    for kind in LOSSES.values():
        if kind.spec.short is not None:
            _allow_string(schema["$defs"][kind.spec.__name__], kind.spec.short)
    return {"$schema": DIALECT, **schema, "title": "Profile of `compress`"}


def _add_keys_of_tasks(schema: dict[str, Any]) -> None:
    """Add the task-specific keys of `data` and `budget`."""
    for task in task_names():
        for common, task_spec in ((DataSpec, data_spec(task)), (BudgetSpec, budget_spec(task))):
            if task_spec is common:
                continue
            properties = schema["$defs"][common.__name__]["properties"]
            task_schema = _one_line_descriptions(task_spec.model_json_schema(by_alias=True))
            schema["$defs"] |= {
                name: definition
                for name, definition in task_schema.get("$defs", {}).items()
                if name not in schema["$defs"]
            }
            properties |= {
                key: {**definition, "description": _prefix_task(task, definition.get("description", ""))}
                for key, definition in task_schema["properties"].items()
                if key not in properties
            }


def _prefix_task(task: str, description: str) -> str:
    """Prefix a description with its task: `Sentence embedding: the two columns ...`."""
    prefixed = f"{task.replace('-', ' ').capitalize()}: {description[:1].lower()}{description[1:]}"
    return prefixed.strip()


def _allow_string(definition: dict[str, Any], key: str) -> None:
    """Allow a single word in place of the body with that key; the requirements of the body then apply to objects
    only."""
    types = definition["type"]
    definition["type"] = [*([types] if isinstance(types, str) else types), "string"]
    definition["if"] = {"type": "string"}
    definition["then"] = {"enum": definition["properties"][key]["enum"]}


def _one_line_descriptions(node: Any) -> Any:
    """Return a copy without the line breaks of descriptions, which are wrapped in the source."""
    if isinstance(node, list):
        return [_one_line_descriptions(item) for item in node]
    if isinstance(node, dict):
        return {
            key: " ".join(value.split())
            if key == "description" and isinstance(value, str)
            else _one_line_descriptions(value)
            for key, value in node.items()
        }
    return node


def _subclasses(model: type[_Kind]) -> set[type[_Kind]]:
    direct: set[type[_Kind]] = set(model.__subclasses__())
    return direct.union(*(_subclasses(each) for each in direct))
