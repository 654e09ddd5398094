"""List entries with a single key, `- name: {...}`, where the name selects the spec of the body."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, create_model
from pydantic_core import CoreSchema

from compress.core.spec import Spec

Body = TypeVar("Body", bound=BaseModel)


class Entry(Spec, Generic[Body]):
    """A mapping with one key; the key is the alias of `body`."""

    model_config = ConfigDict(serialize_by_alias=True)

    body: Body

    @property
    def key(self) -> str:
        """The name in front of the body."""
        return str(type(self).model_fields["body"].alias)


class SingleKeyUnion(Generic[Body]):
    """Annotation for the entries of a list, `Annotated[Entry[...], OneKey(table)]`: a union discriminated by the key.

    Args:
        base: base class of every entry.
        table: the spec, or union of specs, for each name, in the order in which names are listed to users.
    """

    def __init__(self, base: type[Entry[Body]], table: Mapping[str, Any]) -> None:
        self.table = table
        self.models = {name: _entry_class(base, name, spec) for name, spec in table.items()}

    def entry(self, body: Body) -> Entry[Body]:
        """Wrap a body in its entry."""
        name = next(name for name, spec in self.table.items() if type(body) in models_in(spec))
        return self.models[name](**{name: body})

    def parse(self, key: str, body: object) -> Body:
        """Parse the body under a key.

        Raises:
            ValidationError: the body is invalid.
        """
        mapping: Any = {key: body}
        return self.models[key](**mapping).body

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        tagged = tuple(Annotated[model, Tag(name)] for name, model in self.models.items())
        return handler.generate_schema(Annotated[Union[tagged], Discriminator(single_key)])  # noqa: UP007


def single_key(value: Any) -> str | None:
    """Return the tag of a one-key mapping (`{prune: ...}` -> `prune`) or of its parsed entry; None if it is neither."""
    if isinstance(value, dict):
        return str(next(iter(value))) if len(value) == 1 else None
    return value.key if isinstance(value, Entry) else None


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every model class in an annotation, descending into unions, tuples, lists, entries and `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        annotated, *metadata = get_args(annotation)
        entries = [one for one in metadata if isinstance(one, SingleKeyUnion)]
        if entries:
            yield from entries[0].models.values()
        else:
            yield from models_in(annotated)
    elif origin in (Union, types.UnionType, tuple, list):
        for inner in get_args(annotation):
            yield from models_in(inner)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _entry_class(base: type[Entry[Body]], name: str, spec: Any) -> type[Entry[Body]]:
    """Create the entry class for `- name: {...}`."""
    is_class = isinstance(spec, type)
    field: Any = Field(alias=name, description=spec.__doc__) if is_class else Field(alias=name)
    title = spec.__name__.removesuffix("Spec") if is_class else name.title().replace("_", "")
    return create_model(f"{title}Entry", __base__=base, __doc__=f"`{name}: {{...}}`.", body=(spec, field))
