"""What we wrote is known by its digest; all else in a folder is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.disk.ownership import MARKER, foreign_files, move_foreign, write_marker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_what_was_signed_is_ours_as_long_as_it_is_as_it_was(folder: Path):
    assert foreign_files(folder, "page") == ["a", "b/c"]
    write_marker(folder, "page")
    assert foreign_files(folder, "page") == []
    assert foreign_files(folder, "report") == ["a", "b/c"]
    (folder / "a").write_text("other")
    (folder / "new").write_text("new")
    (folder / "link").symlink_to("b/c")
    assert foreign_files(folder, "page") == ["a", "link", "new"]
    assert foreign_files(folder, "page", ["b/c", "missing", "new"]) == ["new"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "page"}', '{"kind": "page", "files": [1]}', "\0"])
def test_a_marker_that_says_nothing(folder: Path, text: str):
    (folder / MARKER).write_text(text)
    assert foreign_files(folder, "page") == ["a", "b/c"]


def test_set_aside(folder: Path):
    assert move_foreign(folder, "page", ["missing"]) == []
    for number in (1, 2):
        (folder / "a").write_text(str(number))
        (moved,) = move_foreign(folder, "page", ["a"])
        assert (moved.name, moved.read_text()) == (f"a.kept-{number}", str(number))
    (folder / "a").symlink_to("nowhere")
    (moved,) = move_foreign(folder, "page", ["a"])
    assert moved.is_symlink()
    assert not (folder / "a").exists()
