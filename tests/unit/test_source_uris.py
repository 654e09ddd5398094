"""Finding sources on disk without importing anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compress.core.disk.source_uris import is_hub_id, local_path, locate_package, source_fault
from compress.core.errors import DataError, ModelError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that must not be imported, installed under another distribution name."""
    site = tmp_path / "site"
    (site / "shop_model" / "weights").mkdir(parents=True)
    (site / "shop_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    info = site / "the_shop-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: the-shop\nVersion: 1.0\n")
    (info / "RECORD").write_text("shop_model/__init__.py,,\nthe_shop-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(site))
    return site / "shop_model"


@pytest.mark.parametrize("name", ["shop_model", "the-shop", "the_shop"])
def test_a_package_is_found_by_module_or_distribution_name(name: str, package: Path):
    assert locate_package(f"package://{name}/weights") == package / "weights"
    assert locate_package(f"package://{name}") == package
    assert "shop_model" not in sys.modules


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("package://no_such_package_here/x", "no package"),
        ("package://shop_model/nothing", "has no 'nothing'"),
        ("package://shop_model/../x", "expected `package://name/folder`"),
        ("package://shop_model//etc", "expected `package://name/folder`"),
        ("package://shop_model/weights/../../x", "expected `package://name/folder`"),
        ("package://shop_model/we\\ights", "expected `package://name/folder`"),
        ("package://", "expected `package://name/folder`"),
    ],
)
def test_packages_that_are_not_there(uri: str, message: str, package: Path):
    with pytest.raises(ModelError, match=message) as caught:
        locate_package(uri)
    assert caught.value.where == uri
    with pytest.raises(DataError, match=message):
        locate_package(uri, DataError)
    assert message in str(source_fault(uri, Path()))


def test_a_path_stands_at_the_profiles_folder(tmp_path: Path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert local_path("./owner", tmp_path) == tmp_path / "owner"
    assert local_path("owner/name", tmp_path) == tmp_path / "owner" / "name"
    assert local_path(str(tmp_path), Path("/")) == tmp_path
    assert local_path("other/name", tmp_path) is None
    assert local_path("python:module:function", tmp_path) is None
    with pytest.raises(ModelError, match="there is no"):
        local_path("./other", tmp_path)
    with pytest.raises(DataError, match="there is no"):
        local_path("data/train.csv", tmp_path, DataError)


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("bert-base-uncased", True),
        ("google/bert_uncased_L-2_H-128_A-2", True),
        ("./model", False),
        ("../model", False),
        ("/models/bert", False),
        ("a/b/c", False),
        ("data.csv", False),
        ("two words", False),
        ("", False),
    ],
)
def test_is_hub_id(text: str, is_id: bool):
    assert is_hub_id(text) is is_id


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("python:models:make", True),
        ("python:my.models:make", True),
        ("python:models", False),
        ("python:models:make:it", False),
        ("python:models/bert:make", False),
        ("python::", False),
        ("prajjwal1/bert-tiny", True),
        ("./nothing", False),
        ("./" + "long" * 2000, False),
        ("./nul\0", False),
    ],
)
def test_missing_source(text: str, fine: bool, tmp_path: Path):
    assert (source_fault(text, tmp_path) is None) is fine


@pytest.mark.parametrize("source", ["~nobody-of-this-name/model", "~0", "~\0"])
def test_the_home_of_nobody_is_a_name_like_any_other(source: str, tmp_path: Path):
    assert source_fault(source, tmp_path) is not None
    with pytest.raises(ModelError) as caught:
        local_path(source, tmp_path)
    assert caught.value.where == source
