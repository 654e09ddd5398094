"""What every section of a profile has in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from compress.core.inside import name_fault


def _name_of_the_hub(name: str) -> str:
    """Refuse what would lead out of the folder of its cache where this name is looked for."""
    fault = name_fault(name)
    if fault is not None:
        raise ValueError(f"{name!a} {fault}")
    return name


Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
HubName = Annotated[str, AfterValidator(_name_of_the_hub)]
"""A configuration, commit or tag of the hub."""


class Spec(BaseModel):
    """A section of a profile: frozen, and a key it does not know is a fault."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes `true` for 1, so that `epochs: yes` would train for one epoch.
        if isinstance(value, bool) and "bool" not in str(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"expected a number or a word, not {str(value).lower()}")
        return value


class PassSpecBase(Spec):
    """A body that may be left empty: `- prune:` means `- prune: {}`."""

    @model_validator(mode="before")
    @classmethod
    def _empty_body(cls, value: Any) -> Any:
        return {} if value is None else value


def one_of(*names: str) -> ConfigDict:
    """The config of a section that wants exactly one of some keys, as its JSON schema says."""
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in names]})
