"""Tables that installed distributions add to: what they list, load, and refuse."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from compress.core.errors import UsageError
from compress.core.plugins import Plugin, Table, plugins

GROUP = "compress.numbers"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.cache_clear()
    yield tmp_path
    plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith("halves")]:
        del sys.modules[name]


def install(site: Path, distribution: str, *points: str, code: str = "", version: str = "1.2") -> None:
    """A distribution with a module and entry points, as an installer leaves it."""
    folder = site / f"{distribution}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (folder / "entry_points.txt").write_text("\n".join((f"[{GROUP}]", *points)))
    (site / f"{distribution}.py").write_text(code)


def table() -> Table[Fraction]:
    return Table(GROUP, Fraction, {"zero": "tests.unit.test_plugins:ZERO"})


ZERO = Fraction(0)


def test_a_table_holds_what_is_built_in_and_what_is_installed(site: Path) -> None:
    install(
        site, "halves", "half = halves:HALF", code="from fractions import Fraction; HALF = Fraction(1, 2)"
    )
    found = table()
    assert list(found) == ["zero", "half"]
    assert len(found) == 2
    assert "third" not in found
    assert "halves" not in sys.modules
    assert found["half"] == Fraction(1, 2)
    assert found["zero"] is ZERO
    assert found.plugins == {"half": Plugin(GROUP, "half", "halves:HALF", "halves", "1.2")}
    with pytest.raises(KeyError):
        found["third"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError"),
        ("raise SystemError('no')", "cannot be loaded: SystemError: no"),
        ("", "cannot be loaded: AttributeError"),
        ("HALF = 0.5", "is not a Fraction: halves:HALF is a float"),
    ],
)
def test_a_broken_plugin_is_told_with_its_distribution(site: Path, code: str, why: str) -> None:
    install(site, "halves", "half = halves:HALF", code=code)
    with pytest.raises(UsageError) as caught:
        table()["half"]
    assert caught.value.code == "plugin-broken"
    assert caught.value.message.startswith(f"the plugin 'half' of halves 1.2 ({GROUP}) {why}")


@pytest.mark.parametrize(
    ("name", "other"), [("zero", "compress itself"), ("half", "halves 1.2")], ids=["built in", "of another"]
)
def test_two_of_one_name_are_refused(site: Path, name: str, other: str) -> None:
    install(site, "halves", "half = halves:HALF")
    install(site, "moieties", f"{name} = moieties:HALF", version="3")
    with pytest.raises(UsageError) as caught:
        list(table())
    assert caught.value.code == "plugin-name"
    assert "moieties 3" in caught.value.message
    assert other in caught.value.message
