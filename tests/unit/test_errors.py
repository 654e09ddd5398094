"""What an error says: its place, its code and what to do next."""

from __future__ import annotations

from compress.core.errors import DataError, Fault


def test_a_code_stands_behind_the_message_and_before_the_hint() -> None:
    error = DataError("no rows", where="a.csv", hint="Add some.", code="no-rows")
    assert str(error) == "a.csv: no rows [no-rows]\n  Add some."
    assert error.code == "no-rows"


def test_a_fault_without_a_code_shows_none() -> None:
    assert str(Fault("a.yaml", 3, "data.path", "missing")) == "a.yaml:3: data.path: missing"
    assert str(Fault("a.yaml", None, "", "empty", "no-profile")) == "a.yaml: empty [no-profile]"
