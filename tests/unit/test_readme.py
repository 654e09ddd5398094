"""What the README says is what the repository holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from compress.cli.root import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import publish

    yield publish
    sys.modules.pop("publish", None)


def test_every_table_is_that_of_its_published_report(publish):
    names = re.findall(r"<!-- table: (\w+) -->", README)
    assert "bert_to_tiny" in names
    for name in names:
        published = ROOT / "reports" / "published" / name
        assert publish.with_table(README, name, publish.readme_table(published)) == README


def test_every_verb_is_explained():
    for name in main.commands:
        assert f"compress {name}" in README


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_named(profile: Path):
    assert profile.name in README


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
