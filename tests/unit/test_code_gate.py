"""No folder runs code without permission, however its files are nested, and whoever reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compress
from compress.core.disk.files import sha256_file
from compress.core.errors import CompressError, ModelError, ProfileError, UsageError
from compress.models.io.checkpoints import load_for_labels
from compress.models.teacher.images import open_image_teacher
from compress.models.teacher.location import check_teacher
from compress.models.teacher.materialise import materialise
from compress.profile.load import load_profile
from compress.profile.schema import TeacherSpec
from compress.profile.specs.training import FinetuneSpec
from compress.runtimes import runner
from compress.runtimes.torch_worker import TorchRuntime, main
from tests.jobs import write_job
from tests.tiny import LABELS, write_torch_artifact

CODE = """
import pathlib
(pathlib.Path(__file__).parent / "ran").touch()
from torch import nn
def make():
    (pathlib.Path(__file__).parent / "ran").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""
TASK = {"task": "image-classification", "labels": list(LABELS), "image": {"size": [8, 8], "channels": 1}}

Tree = dict[str, Any]
EXTRAS = ("config.json", "structure.json", "pooling.json", "bitsandbytes.json")
"""Files that change which way a folder is read."""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with somebody's code, a model of transformers, and a folder of weights for the code."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "strange.py").write_text(CODE)
    write_torch_artifact(folder / "bert")
    described = {
        "source": "python:strange:make",
        "base": str(folder),
        "sha256": sha256_file(folder / "strange.py"),
    }
    module = folder / "module"
    module.mkdir()
    (module / "module.json").write_text(json.dumps(described))
    (module / "task.json").write_text(json.dumps(TASK))
    return folder


def write(tree: Tree, folder: Path, stranger: Path) -> None:
    """A folder of models; an ensemble is one whose members are folders again."""
    folder.mkdir()
    for name in tree["extras"]:
        shutil.copyfile(stranger / "bert" / "config.json", folder / name)
    if tree["kind"] == "linked":
        (folder / "elsewhere").symlink_to(stranger / "module")
        names = ["elsewhere", "elsewhere"]
        (folder / "ensemble.json").write_text(json.dumps({"members": names}))
    elif tree["kind"] == "ensemble":
        names = [f"member-{number}" for number in range(len(tree["members"]))]
        for name, member in zip(names, tree["members"], strict=True):
            write(member, folder / name, stranger)
        (folder / "ensemble.json").write_text(json.dumps({"members": names}))
    else:
        shutil.copytree(stranger / tree["kind"], folder, dirs_exist_ok=True)
        if tree["kind"] == "module":
            shutil.copyfile(stranger / "bert" / "model.safetensors", folder / "model.safetensors")


def extras(names: tuple[str, ...] = EXTRAS) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), unique=True, max_size=2)


def leaf(kind: str) -> st.SearchStrategy[Tree]:
    return st.fixed_dictionaries(
        {"kind": st.just(kind), "extras": extras() if kind != "bert" else st.just([])}
    )


TREES = st.recursive(
    leaf("module") | leaf("bert") | leaf("linked"),
    lambda inner: st.fixed_dictionaries(
        {
            "kind": st.just("ensemble"),
            "extras": extras(),
            "members": st.lists(inner, min_size=2, max_size=3),
        }
    ),
    max_leaves=5,
)


def readers(folder: Path, base: Path) -> list[Callable[[], object]]:
    """All that read a folder that a profile, a cache or a user names."""
    spec = TeacherSpec(model=str(folder))
    loose = TeacherSpec(model=str(folder), finetune=FinetuneSpec())
    refused: dict[str, Any] = {"allow_code": False}
    made: dict[str, Any] = {"max_length": 16, **refused}
    return [
        lambda: compress.load_model(folder),
        lambda: load_for_labels(folder, LABELS, 0),
        lambda: TorchRuntime().open(str(folder), 1, "cpu"),
        lambda: check_teacher(spec, LABELS, base, task="text-classification", **refused),
        lambda: check_teacher(loose, LABELS, base, task="image-classification", **refused),
        lambda: open_image_teacher("image-classification", loose, LABELS, base, seed=0, **refused),
        lambda: materialise(loose, LABELS, base, base / "out", task="text-classification", **made),
        lambda: materialise(spec, (), base, base / "out", task="sentence-embedding", **made),
    ]


@given(TREES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_nesting_runs_code_without_permission(
    stranger: Path, tmp_path_factory: pytest.TempPathFactory, tree: Tree
) -> None:
    base = tmp_path_factory.mktemp("nesting")
    write(tree, base / "given", stranger)
    for read in readers(base / "given", base):
        # Whatever they say of such folders, they say it as errors for users.
        with suppress(UsageError, ModelError):
            read()
        assert not (stranger / "ran").exists(), tree
    shutil.rmtree(base)


def ensemble(stranger: Path, folder: Path) -> Path:
    module: Tree = {"kind": "module", "extras": []}
    write({"kind": "ensemble", "extras": [], "members": [module, module]}, folder, stranger)
    return folder


def test_an_ensemble_of_modules_is_refused_by_name(stranger: Path, tmp_path: Path) -> None:
    given = ensemble(stranger, tmp_path / "given")
    with pytest.raises(UsageError) as caught:
        compress.load_model(given)
    assert caught.value.code == "code-not-allowed"
    assert caught.value.where == "python:strange:make"


def test_it_runs_with_permission(stranger: Path, tmp_path: Path) -> None:
    given = ensemble(stranger, tmp_path / "given")
    with pytest.raises(ModelError, match=r"model\.safetensors"):  # those weights are of another model
        compress.load_model(given, allow_code=True)
    assert (stranger / "ran").exists()
    (stranger / "ran").unlink()


def test_the_process_that_measures_is_told(stranger: Path, tmp_path: Path) -> None:
    given = ensemble(stranger, tmp_path / "given")
    job = {"kind": "memory", "model": str(given), "feeds": str(tmp_path / "feeds.npz")}
    (tmp_path / "job.json").write_text(json.dumps({**job, "threads": 1, "device": "cpu"}))
    runner.write_batches(job["feeds"], [{"pixel_values": np.zeros((1, 1, 8, 8), np.float32)}])
    ran = {}
    for words in ([], ["--allow-code"]):
        with pytest.raises(CompressError):
            main([*words, str(tmp_path / "job.json"), str(tmp_path / "result")])
        ran[len(words)] = (stranger / "ran").exists()
    assert ran == {0: False, 1: True}
    (stranger / "ran").unlink()


@pytest.mark.parametrize("name", [".", "..", "/", "a/b", "", "loop"])
def test_a_member_is_a_folder_right_beside(tmp_path: Path, name: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": [name, "a"]}))
    with pytest.raises(ModelError) as caught:
        compress.load_model(tmp_path)
    assert caught.value.code == "outside-folder"
    assert caught.value.where == str(tmp_path / "ensemble.json")


def test_a_profile_names_one_model(stranger: Path, tmp_path: Path) -> None:
    ensemble(stranger, tmp_path / "given")
    with pytest.raises(ModelError) as caught:
        check_teacher(
            TeacherSpec(model="given"), LABELS, tmp_path, allow_code=True, task="text-classification"
        )
    assert (caught.value.code, caught.value.where) == ("several-models", str(tmp_path / "given"))


def test_validate_says_so(stranger: Path, tmp_path: Path) -> None:
    profile = write_job(tmp_path / "job")
    shutil.rmtree(tmp_path / "job" / "teacher")
    ensemble(stranger, tmp_path / "job" / "teacher")
    with pytest.raises(ProfileError) as caught:
        load_profile(profile)
    assert ("teacher.model", "several-models") in [(one.path, one.code) for one in caught.value.faults]
