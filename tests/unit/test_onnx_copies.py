"""A user's ONNX file is copied with its weights, whatever these are called: never linked, never written to."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from compress.core.artifacts import ONNX_MODEL, SEAL, TASK, TOKENIZER, open_artifact, seal
from compress.core.disk.files import read_sealed, write_sealed, write_text
from compress.core.errors import CompressError, ModelError
from compress.core.forms import ONNX_FLOAT
from compress.engine.foreign.onnx_file import ModelSettings, import_model
from compress.models.io.onnx_files import copy_onnx, read_onnx
from compress.runtimes.runner import open_session
from tests.tiny_onnx import LABELS, votes_table, word_tokenizer, write_votes_model

FEED = {"input_ids": np.array([[2, 3]]), "attention_mask": np.array([[1, 1]])}


def split_model(folder: Path, location: str) -> Path:
    """`mine.onnx` with its weights in another file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_votes_model(folder / "mine.onnx", votes_table())
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(str(folder / "mine.onnx"))
    onnx.save(
        model, str(folder / "mine.onnx"), save_as_external_data=True, location=location, size_threshold=60
    )
    return folder / "mine.onnx"


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("location", ["model.onnx", "task.json", "tokenizer.json", "w.bin"])
def test_a_model_is_taken_in_and_its_files_stay_as_they_are(location: str, tmp_path: Path):
    model = split_model(tmp_path / "mine", location)
    (tmp_path / "tokens").mkdir()
    write_text(tmp_path / "tokens" / TOKENIZER, word_tokenizer().to_str())
    before = digests(tmp_path / "mine")
    given = ModelSettings((tmp_path / "tokens",), labels=LABELS)
    if location in (TASK,):
        # What lies beside the model under this name is read as such.
        with pytest.raises(ModelError):
            import_model(model, given, "text-classification", LABELS, 16, tmp_path / "taken")
    else:
        taken = import_model(model, given, "text-classification", LABELS, 16, tmp_path / "taken")
        expected = open_session(str(model)).run(None, FEED)[0]
        assert np.array_equal(open_session(str(taken.artifact.model_file)).run(None, FEED)[0], expected)
        assert all(os.stat(taken.artifact.path / name).st_nlink == 1 for name in taken.artifact.files)
    assert digests(tmp_path / "mine") == before


@pytest.mark.parametrize("location", ["task.json", "target.onnx", "sub/w.bin"])
def test_a_copy_runs_as_the_model_does(location: str, tmp_path: Path):
    model = split_model(tmp_path / "mine", location)
    (tmp_path / "out").mkdir()
    names = copy_onnx(read_onnx(model), tmp_path / "out" / "target.onnx", (TASK,))
    assert {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")} >= {*names}
    assert not (tmp_path / "out" / TASK).exists()
    expected = open_session(str(model)).run(None, FEED)[0]
    assert np.array_equal(open_session(str(tmp_path / "out" / "target.onnx")).run(None, FEED)[0], expected)


@pytest.mark.parametrize("location", ["../w.bin", "{absolute}", "sub/../../w.bin", "link.bin", ""])
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path):
    model = split_model(tmp_path / "mine", "w.bin")
    os.replace(tmp_path / "mine" / "w.bin", tmp_path / "w.bin")
    (tmp_path / "mine" / "link.bin").symlink_to("../w.bin")
    changed = onnx.load(str(model), load_external_data=False)
    for tensor in changed.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location.format(absolute=tmp_path / "w.bin")
    onnx.save(changed, str(model))
    with pytest.raises(ModelError) as raised:
        read_onnx(model)
    assert raised.value.code == "outside-folder"


def test_a_seal_names_what_lies_in_its_folder(tmp_path: Path):
    write_votes_model(tmp_path / "mine.onnx", votes_table())
    folder = tmp_path / "made"
    folder.mkdir()
    write_votes_model(folder / ONNX_MODEL, votes_table())
    seal(folder, ONNX_FLOAT, {})
    body = read_sealed(folder / SEAL)
    # Whoever writes such a name can write its checksum as well.
    write_sealed(
        folder / SEAL, {**body, "files": {f"{ONNX_MODEL}/../../mine.onnx": body["files"][ONNX_MODEL]}}
    )
    with pytest.raises(ModelError) as raised:
        import_model(folder, ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken")
    assert raised.value.code == "outside-folder"

    with pytest.raises(CompressError) as refused:
        open_artifact(folder)
    assert refused.value.code == "outside-folder"
