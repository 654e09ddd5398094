"""Base classes of all sections of a profile."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from compress.core.disk.safe_paths import name_fault


def _check_hub_name(name: str) -> str:
    """Reject names that would escape the hub's cache folder."""
    fault = name_fault(name)
    if fault is not None:
        raise ValueError(f"{name!a} {fault}")
    return name


Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Side = Annotated[int, Field(ge=1, le=8192)]
"""Side of an image in pixels."""
HubName = Annotated[str, AfterValidator(_check_hub_name)]
"""Name of a configuration, commit or tag on the hub."""


class Spec(BaseModel):
    """A section of a profile: frozen, rejects unknown keys, and documents each key by the text below its field."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic coerces `true` to 1, so `epochs: yes` would train for one epoch.
        values = value if isinstance(value, list | tuple) else (value,)
        bools = [one for one in values if isinstance(one, bool)]
        if bools and "bool" not in str(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"expected a number or a word, not {str(bools[0]).lower()}")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Only schemas need descriptions; pydantic's `use_attribute_docstrings` would parse every class at each start.
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, field in cls.model_fields.items():
            owner = next(each for each in cls.__mro__ if name in inspect.get_annotations(each))
            description = _field_docs(owner.__module__).get(owner.__name__, {}).get(name)
            if description is not None:
                properties[field.alias or name].setdefault("description", description)
        return schema


@cache
def _field_docs(module: str) -> dict[str, dict[str, str]]:
    """Return the attribute docstrings of each class of a module, parsed from its source; empty without the source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:
        return {}
    return {
        node.name: {
            field.target.id: inspect.cleandoc(text.value.value)
            for field, text in pairwise(node.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr)
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


class PassSpecBase(Spec):
    """A body that may be left empty: `- prune:` means `- prune: {}`."""

    @model_validator(mode="before")
    @classmethod
    def _empty_body(cls, value: Any) -> Any:
        return {} if value is None else value


def requires_one_of(*names: str) -> ConfigDict:
    """Return a model config whose JSON schema requires exactly one of the keys `names`."""
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in names]})
