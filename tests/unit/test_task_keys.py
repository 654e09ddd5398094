"""A task may have keys of its own in the profile's `data`: checked, suggested by the schema, and kept."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from compress.core.task_kind import TaskKind
from compress.profile.json_schema import json_schema
from compress.profile.schema import DataSpec, Profile, data_spec
from compress.tasks import table


class CharactersData(DataSpec):
    """Texts read character by character."""

    window: int = 8
    """Characters that are shown at once."""


KIND = TaskKind(
    name="characters",
    items="text",
    head="own",
    source="unused",
    data="unused",
    task="unused",
    record="unused",
    metrics=(),
    label_loss=None,
    bundle="unused",
    starter="unused",
    keys=f"{__name__}:CharactersData",
)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch):
    """The task as a row of the table, as a distribution would add it."""
    monkeypatch.setitem(table.TASKS._built_in, KIND.name, f"{__name__}:KIND")
    yield
    table.TASKS._loaded.pop(KIND.name, None)


def profile(task: str, **data: Any) -> dict[str, Any]:
    return {
        "name": "job",
        "task": task,
        "data": {"path": "d.csv", **data},
        "teacher": {"model": "owner/model"},
        "passes": [{"export": {}}],
    }


def test_the_keys_of_a_task_are_those_of_all_and_its_own(known: None):
    assert data_spec("characters") is CharactersData
    assert data_spec("text-classification") is DataSpec


def test_the_schema_knows_them(known: None):
    properties = json_schema()["$defs"]["DataSpec"]["properties"]
    assert properties["window"]["description"] == "characters: Characters that are shown at once."


def test_another_task_does_not(known: None):
    with pytest.raises(ValidationError) as caught:
        Profile.model_validate(profile("text-classification", window=3))
    (fault,) = caught.value.errors()
    assert (fault["type"], fault["loc"]) == ("extra_forbidden", ("data", "window"))


def test_without_such_a_task_the_schema_is_as_it_was():
    assert "window" not in json_schema()["$defs"]["DataSpec"]["properties"]
