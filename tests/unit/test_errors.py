"""What an error says: its place, its code and what to do next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from compress import api
from compress.core.errors import DataError, Fault, ResourceError
from compress.engine import resolve, running
from compress.profile.load import LoadedProfile


def test_a_code_stands_behind_the_message_and_before_the_hint() -> None:
    error = DataError("no rows", where="a.csv", hint="Add some.", code="no-rows")
    assert str(error) == "a.csv: no rows [no-rows]\n  Add some."
    assert error.code == "no-rows"


def test_a_fault_without_a_code_shows_none() -> None:
    assert str(Fault("a.yaml", 3, "data.path", "missing")) == "a.yaml:3: data.path: missing"
    assert str(Fault("a.yaml", None, "", "empty", "no-profile")) == "a.yaml: empty [no-profile]"


def test_what_stopped_a_run_is_told_where_its_records_of_before_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise ResourceError("the cache cannot be written")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "job-1").mkdir(parents=True)
    (tmp_path / "runs" / "job-1" / "run.json").write_text("{")
    job = SimpleNamespace(run_id="job-1", splits=SimpleNamespace(notes=()))
    monkeypatch.setattr(resolve, "resolve_job", lambda *_, **__: job)
    monkeypatch.setattr(running, "run_job", stopped)
    with pytest.raises(ResourceError, match="the cache cannot be written"):
        api.run(LoadedProfile(profile=None, source=None), quiet=True)
