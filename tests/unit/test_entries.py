"""Entries with one key: what the key names, what goes back into JSON, and what is refused."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from compress.core.entries import Entry, SingleKeyUnion
from compress.core.spec import PassSpecBase


class Shape(PassSpecBase):
    """A shape."""

    width: int = 1


class Square(Shape):
    """As wide as high."""


class Oblong(Shape):
    """Wider than high."""

    height: int = 2


SHAPES = SingleKeyUnion(Entry[Shape], {"square": Square, "oblong": Oblong})
ADAPTER: TypeAdapter[Entry[Shape]] = TypeAdapter(Annotated[Entry[Shape], SHAPES])


@pytest.mark.parametrize("written", [{"oblong": {"height": 3}}, {"square": None}, {"square": {"width": 2}}])
def test_the_key_says_which_spec_the_body_follows(written: dict[str, dict[str, int] | None]) -> None:
    (key,) = written
    entry = ADAPTER.validate_python(written)
    assert (entry.key, type(entry.body)) == (key, SHAPES.table[key])
    assert entry.body.model_dump().items() >= (written[key] or {}).items()
    assert ADAPTER.validate_python(ADAPTER.dump_python(entry, mode="json")) == entry
    assert SHAPES.entry(entry.body) == entry


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ({"circle": {}}, "union_tag_invalid"),
        ({"body": {}}, "union_tag_invalid"),
        ({"square": {}, "oblong": {}}, "union_tag_not_found"),
        ("square", "union_tag_not_found"),
        ({"square": {"height": 3}}, "extra_forbidden"),
    ],
)
def test_what_is_no_entry_is_refused(written: object, kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(written)
    assert [error["type"] for error in caught.value.errors()] == [kind]


def test_the_schema_names_each_entry() -> None:
    schema = ADAPTER.json_schema()
    assert [one["$ref"].rpartition("/")[2] for one in schema["oneOf"]] == ["SquareEntry", "OblongEntry"]
    assert schema["$defs"]["OblongEntry"]["required"] == ["oblong"]
