"""A name that somebody else wrote stands for something inside the folder, or for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.disk.safe_paths import name_fault, path_inside
from compress.core.errors import DataError, ModelError

OUTSIDE = (
    "", ".", "./", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "//etc", "C:x", "c:\\x", "a\\..\\x", "..\\x",
    "a\0b", "\udead", "x" * 256, "/".join(["abc"] * 1000), None, 7, ["a"], {"a": 1},
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: ascii(name)[:20])
def test_what_leads_out_is_refused(name: object, tmp_path: Path):
    with pytest.raises(ModelError) as raised:
        path_inside(tmp_path, name, where="manifest.json")
    assert (raised.value.code, raised.value.where) == ("outside-folder", "manifest.json")
    assert str(raised.value).isprintable() or "\n" in str(raised.value)


@pytest.mark.parametrize("name", ["a", "a/b", "./a", "a/./b", "a..b", "...", "a b", "ä/日本", "-x"])
def test_a_name_inside_is_taken(name: str, tmp_path: Path):
    assert path_inside(tmp_path, name, where="x") == tmp_path / name


def test_links(tmp_path: Path):
    folder, other = tmp_path / "folder", tmp_path / "folder-other"
    folder.mkdir()
    other.mkdir()
    (other / "secret").write_text("s")
    (folder / "real").write_text("r")
    (folder / "out").symlink_to(other / "secret")
    (folder / "outdir").symlink_to(other)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("../nothing")
    (folder / "within").symlink_to("real")
    assert path_inside(folder, "within", where="x").read_text() == "r"
    for name in ("out", "outdir/secret", "outdir/new", "dangling"):
        with pytest.raises(DataError) as raised:
            path_inside(folder, name, where="x", error=DataError)
        assert raised.value.code == "outside-folder"


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "a").write_text("a")
    assert path_inside(tmp_path / "link", "a", where="x").read_text() == "a"


def test_snapshots_of_the_hub_link_to_their_blobs_and_no_further(tmp_path: Path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("1")
    (tmp_path / "models--a--b" / "refs").write_text("r")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    (snapshot / "refs").symlink_to("../../refs")
    assert path_inside(snapshot, "model.safetensors", where="x").read_text() == "1"
    with pytest.raises(ModelError):
        path_inside(snapshot, "refs", where="x")


@given(st.text(alphabet="./\\:aC\0\udc80\ud800é ", max_size=12))
def test_whatever_is_taken_lies_below_the_folder(name: str):
    folder = Path("/nowhere/folder")
    if name_fault(name) is None:
        path = Path(os.path.normpath(path_inside(folder, name, where="x")))
        assert path != folder
        assert path.is_relative_to(folder)
    else:
        with pytest.raises(ModelError):
            path_inside(folder, name, where="x")
