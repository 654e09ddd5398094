"""A task may have keys of its own in the profile's `data`: checked, suggested by the schema, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from compress.core.errors import ProfileError
from compress.core.task_kind import TaskKind
from compress.profile.json_schema import json_schema
from compress.profile.load import load_profile
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
    assert properties["window"]["description"] == "Characters: characters that are shown at once."


def test_another_task_does_not(known: None):
    with pytest.raises(ValidationError) as caught:
        Profile.model_validate(profile("text-classification", window=3))
    (fault,) = caught.value.errors()
    assert (fault["type"], fault["loc"]) == ("extra_forbidden", ("data", "window"))


def test_without_such_a_task_the_schema_is_as_it_was():
    assert "window" not in json_schema()["$defs"]["DataSpec"]["properties"]


def test_a_key_of_another_task_is_told_with_its_name_beside_all_other_faults(tmp_path: Path):
    body = profile("text-classification", score_column="mark", sentences=True, split={})
    body["data"]["pair_columns"] = 0
    (tmp_path / "d.csv").write_text("text,label\na,b\n")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(body))
    with pytest.raises(ProfileError) as caught:
        load_profile(tmp_path / "p.yaml")
    told = {fault.path: fault.message for fault in caught.value.faults}
    why = "only sentence-embedding uses it, not text-classification"
    assert told.pop("data.split") == "unknown key; did you mean `splits`?"
    assert told == dict.fromkeys(("data.pair_columns", "data.score_column", "data.sentences"), why)


def test_the_nearest_key_of_the_task_is_named(tmp_path: Path):
    (tmp_path / "d.csv").write_text("text,label\na,b\n")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(profile("sentence-embedding", pair_column=["a", "b"])))
    with pytest.raises(ProfileError, match="did you mean `pair_columns`"):
        load_profile(tmp_path / "p.yaml")
