"""A disk that is full: a clear error, nothing half-written, and once there is space the same command ends well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.artifacts import seal
from compress.core.disk.exhaustion import resource_errors
from compress.core.disk.files import write_texts
from compress.core.errors import ResourceError
from compress.core.forms import TORCH_FLOAT
from compress.store.cache import Cache
from compress.store.flat import FileArray
from compress.store.runs import RunStore
from compress.training.checkpointing import load_checkpoint, save_checkpoint
from tests.jobs import compress, report_of, write_job
from tests.small_disk import SmallDisk, small_disk

TRAINED = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 64}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 4) as made:
        yield made


@pytest.mark.slow
def test_a_run_ends_well_once_there_is_space_and_memory(disk: SmallDisk, tmp_path: Path) -> None:
    job = tmp_path / "job"
    # What is exported is the file that the baseline is: measured once.
    export = {"formats": ["onnx"], "golden": 2}
    profile = write_job(job, teacher={"model": "teacher", "finetune": TRAINED}, passes=[{"export": export}])
    (job / "cache").symlink_to(disk.path)
    disk.fill(left_kb=100)
    full = compress("run", profile, "--quiet", folder=job)
    assert full.returncode == 7, full.stderr
    assert "the disk is full: " in full.stderr
    assert " of 4.2 MB are free here" in full.stderr
    assert str(disk.path) in full.stderr or str(job / "cache") in full.stderr
    assert "Traceback" not in full.stderr
    assert list((disk.path / "making").iterdir()) == []
    assert not list(disk.path.glob("work/*/.*.tmp"))
    (run,) = (job / "runs").iterdir()
    assert "the disk is full" in json.loads((run / "run.json").read_text())["error"]

    disk.enlarge(40)
    small = compress("run", profile, "--quiet", "--set", "targets.0.memory_limit_mb=20", folder=job)
    assert small.returncode == 5, small.stderr
    assert "MB of it before loading), but `memory_limit_mb` allows 20 MB" in small.stderr
    assert "does not repeat any training" in small.stderr
    made = {file: file.stat().st_mtime_ns for file in disk.path.glob("artifacts/*/*.safetensors")}
    assert made

    large = compress("run", profile, "--quiet", "--set", "targets.0.memory_limit_mb=2000", folder=job)
    assert large.returncode == 0, large.stderr
    assert {file: file.stat().st_mtime_ns for file in disk.path.glob("artifacts/*/*.safetensors")} == made
    assert [row["step"] for row in report_of(job)["rows"]] == ["baseline", "export"]


def test_a_verb_that_writes_a_file(disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"word {n},{n % 2}\n" for n in range(40)))
    disk.fill()
    result = compress("init", "model", "data.csv", "--out", disk.path / "new.yaml", folder=tmp_path)
    assert result.returncode == 7
    assert f"error: {disk.path}: the disk is full: 0.0 MB of 4.2 MB are free here" in result.stderr
    assert [file.name for file in disk.path.iterdir()] == ["filled"]


def test_the_checkpoint_before_stays(disk: SmallDisk) -> None:
    weights = {"w": torch.arange(200_000, dtype=torch.float32)}
    save_checkpoint(disk.path, {"step": 1}, weights, None, None)
    disk.fill(left_kb=100)
    with pytest.raises(ResourceError, match="the disk is full"), resource_errors(lambda: (disk.path,)):
        save_checkpoint(disk.path, {"step": 2}, weights, None, None)
    assert sorted(file.name for file in disk.path.iterdir()) == [
        "checkpoint.json", "filled", "state-1.safetensors",
    ]  # fmt: skip
    kept = load_checkpoint(disk.path)
    assert kept is not None
    assert kept.values == {"step": 1}
    assert torch.equal(kept.state["w"], weights["w"])


def test_an_artifact_that_could_not_be_written_is_none(disk: SmallDisk) -> None:
    cache = Cache(disk.path / "cache")
    cache.prepare()
    filled = disk.fill(left_kb=100)

    def make() -> None:
        with resource_errors(lambda: (cache.root,)), cache.staging("a" * 64) as out:
            (out / "model.safetensors").write_bytes(bytes(200_000))
            seal(out, TORCH_FLOAT, {"parameters": 1})
            cache.publish(
                "a" * 64,
                out,
                seconds=1,
                curves=(),
                labels={"step": "s", "profile": "p", "form": "f"},
                parts={},
            )

    with pytest.raises(ResourceError, match="the disk is full"):
        make()
    assert cache.find("a" * 64) is None
    assert list((cache.root / "making").iterdir()) == []
    filled.unlink()
    make()
    assert cache.find("a" * 64, verify_hashes=True) is not None


def test_rows_are_written_whole_or_the_error_says_so(disk: SmallDisk) -> None:
    file = disk.path / "rows"
    with file.open("wb") as stream:
        stream.truncate(1_000_000)
    array = FileArray(file, np.float32, (1000, 250), writable=True)
    disk.fill(left_kb=300)
    rows = np.ones((1000, 250), np.float32)
    # The system writes what it has space for, and counts it: that is no error of its own.
    with pytest.raises(ResourceError, match="the disk is full"), resource_errors(lambda: (disk.path,)):
        array.write_rows(np.arange(1000), rows)
    (disk.path / "filled").unlink()
    array.write_rows(np.arange(1000), rows)
    assert (array.rows(np.arange(1000)) == rows).all()


def test_a_bundle_is_placed_whole_or_not_at_all(disk: SmallDisk, tmp_path: Path) -> None:
    for name, size in (("first", 1000), ("second", 300_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(bytes(size))
    first, second = (seal(tmp_path / name, TORCH_FLOAT, {}) for name in ("first", "second"))
    store = RunStore(disk.path)
    store.copy_bundle(first)
    disk.fill(left_kb=100)
    with pytest.raises(ResourceError, match="the disk is full"), resource_errors(lambda: (disk.path,)):
        store.copy_bundle(second)
    assert sorted(file.name for file in disk.path.iterdir()) == ["bundle", "filled"]
    assert (disk.path / "bundle" / "model.onnx").stat().st_size == 1000
    (disk.path / "filled").unlink()
    store.copy_bundle(second)
    assert (disk.path / "bundle" / "model.onnx").stat().st_size == 300_000


def test_files_that_belong_together_are_replaced_together(disk: SmallDisk) -> None:
    small, large = disk.path / "report.json", disk.path / "report.html"
    write_texts({small: "old", large: "old"})
    disk.fill(left_kb=100)
    with pytest.raises(ResourceError, match="the disk is full"), resource_errors(tuple):
        write_texts({small: "new", large: "new" * 100_000})
    assert sorted(file.name for file in disk.path.iterdir()) == ["filled", "report.html", "report.json"]
    assert (small.read_text(), large.read_text()) == ("old", "old")
