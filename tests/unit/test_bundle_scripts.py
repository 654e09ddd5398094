"""The predict.py of a bundle that is damaged, or that cannot write: one line, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from compress.bundles.layout import TEMPLATES
from compress.core.artifacts import ONNX_MODEL, TASK, TOKENIZER
from compress.runtimes import runner
from tests.tiny_onnx import VOCABULARY, write_embedder_artifact, write_votes_artifact
from tests.unit.test_language_bundles import asked

KINDS = {"classify.py": write_votes_artifact, "embed.py": write_embedder_artifact}


def script(name: str, folder: Path) -> Path:
    """The predict.py of a tiny bundle."""
    KINDS[name](folder)
    return Path(shutil.copy(TEMPLATES / name, folder / "predict.py"))


def without_length(folder: Path) -> None:
    task = json.loads((folder / TASK).read_text())
    (folder / TASK).write_text(json.dumps({key: value for key, value in task.items() if key != "max_length"}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a model of nothing": lambda folder: (folder / ONNX_MODEL).write_bytes(b""),
    "a model that is none": lambda folder: (folder / ONNX_MODEL).write_bytes(b"not a model"),
    "half a model": lambda folder: (folder / ONNX_MODEL).write_bytes(
        (folder / ONNX_MODEL).read_bytes()[:200]
    ),
    "a tokenizer of nothing": lambda folder: (folder / TOKENIZER).write_text("{}"),
    "no tokenizer": lambda folder: (folder / TOKENIZER).unlink(),
    "a task that is a list": lambda folder: (folder / TASK).write_text("[]"),
    "a task without its length": without_length,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_bundle_is_told_of_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script(name, tmp_path / "whole")
    for damage, make in DAMAGES.items():
        damaged = Path(shutil.copytree(tmp_path / "whole", tmp_path / damage))
        make(damaged)
        assert asked(damaged / "predict.py", monkeypatch, "red cat") == 1, damage
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith("cannot load the model: ")
        assert told.err.count("\n") == 1


def another_tokenizer(folder: Path) -> None:
    """One whose ids the model does not know."""
    beyond = {word: place + 1000 for word, place in VOCABULARY.items()}
    Tokenizer(WordLevel(beyond, unk_token="[UNK]")).save(str(folder / TOKENIZER))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("classify.py", ["red"]), ("embed.py", ["red"]), ("embed.py", ["--similar", "red", "blue"])],
)
def test_a_model_that_fails_as_it_runs_is_told_of_in_one_line(
    name: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predict = script(name, tmp_path / "bundle")
    another_tokenizer(tmp_path / "bundle")
    assert asked(predict, monkeypatch, *arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("the model failed: ")


def test_embeddings_that_cannot_be_made_leave_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict, out = script("embed.py", tmp_path / "bundle"), tmp_path / "e.npy"
    assert asked(predict, monkeypatch, "red cat", "dog", "--out", str(out)) == 0
    before = out.read_bytes()
    assert np.load(out).shape == (2, 3)
    another_tokenizer(tmp_path / "bundle")
    assert asked(predict, monkeypatch, "red cat", "--out", str(out)) == 1
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "e.npy"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_embeddings_that_cannot_be_written_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = script("embed.py", tmp_path / "bundle")
    for out in (tmp_path / "nowhere" / "e.npy", tmp_path / "bundle", Path("/dev/full")):
        assert asked(predict, monkeypatch, "red cat", "--out", str(out)) == 1
        assert capsys.readouterr().err.startswith(f"cannot write {out}: ")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}
    # What is no file, but takes what is written to it, stays what it is.
    assert asked(predict, monkeypatch, "red cat", "--out", "/dev/null") == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", KINDS)
def test_threads_are_one_or_more(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = script(name, tmp_path / "bundle")
    for threads in ("0", "-2"):
        assert asked(predict, monkeypatch, "red", "--threads", threads) == 2
        assert f"argument --threads: expected 1 or more, not {threads}" in capsys.readouterr().err


# A command of a shell, and what the script says then.
STREAMS = {
    "nobody reads on": ("python predict.py red cat | :", ""),
    "a full disk": (
        "python predict.py red >/dev/full",
        "cannot read the input or write the output: OSError: [Errno 28] No space left on device\n",
    ),
    "other bytes than letters": (
        "python predict.py",
        "cannot read the input or write the output: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9 in "
        "position 3: invalid continuation byte\n",
    ),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("case", STREAMS)
def test_streams_that_fail_end_a_script_without_a_traceback(name: str, case: str, tmp_path: Path) -> None:
    command, told = STREAMS[case]
    predict = script(name, tmp_path / "bundle")
    shutil.copy(runner.__file__, predict.parent)
    command = command.replace("python", sys.executable)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=predict.parent,
        input="caf\xe9\n".encode("latin-1"),
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", told)
