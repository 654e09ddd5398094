"""A file of the user that changes while a run goes on: nothing of it is kept under the key of what it was before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.core.disk.files import sha256_file
from compress.core.disk.watched import FileDigests
from compress.core.errors import DataError
from compress.core.terminal.progress import SilentProgress
from compress.engine.making import make_step
from compress.engine.resolve import Job, resolve_job
from compress.profile.load import load_profile
from compress.store.cache import Cache
from tests.jobs import write_job


def settle(file: Path) -> None:
    """Let it be old enough for its stat to be believed; the inode's own time cannot be set back."""
    time.sleep(max(0.0, os.stat(file).st_ctime + 2.1 - time.time()))


def test_a_change_of_any_kind_is_noticed(tmp_path: Path):
    watched, file = FileDigests(), tmp_path / "file"
    file.write_bytes(b"before")
    os.utime(file, (1, 1))
    settle(file)
    assert watched.sha256(file) == sha256_file(file)
    assert watched.changed() == []
    stat = os.stat(file)
    file.write_bytes(b"after.")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert watched.changed() == [file]
    assert watched.changed() == []
    file.unlink()
    assert watched.changed() == [file]


def test_a_change_within_one_tick_is_noticed(tmp_path: Path):
    watched, file = FileDigests(), tmp_path / "file"
    for number in range(200):
        file.write_bytes(b"%3d" % number)
        watched.sha256(file)
        with file.open("r+b") as stream:
            stream.write(b"xxx")
        assert watched.changed() == [file]


def test_what_stays_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    watched, file = FileDigests(), tmp_path / "file"
    file.write_bytes(b"before")
    settle(file)
    watched.sha256(file)
    monkeypatch.setattr("compress.core.disk.watched.sha256_file", lambda path: pytest.fail("read again"))
    assert watched.changed() == []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    profile = write_job(tmp_path / "job", teacher={"model": "teacher"})
    return resolve_job(load_profile(profile), allow_code=False)


def edit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def change_weights(folder: Path) -> Path:
    edit(folder / "teacher" / "model.safetensors")
    return folder / "teacher" / "model.safetensors"


def change_data(folder: Path) -> Path:
    edit(folder / "data.csv")
    return folder / "data.csv"


def add_a_file(folder: Path) -> Path | None:
    (folder / "teacher" / "added_tokens.json").write_text("{}")
    return None


@pytest.mark.parametrize("change", [change_weights, change_data, add_a_file])
def test_a_source_that_changes_while_a_step_is_made_is_not_published(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Path | None]
):
    """Between the fingerprint and the pass, which is where a long step spends its time."""
    import compress.engine.making as making

    cache = Cache(tmp_path / "cache")
    cache.prepare()
    run_pass, where = making.run_pass, list[Path | None]()

    def changed_first(*arguments: object) -> object:
        where.append(change(tmp_path / "job"))
        return run_pass(*arguments)  # type: ignore[arg-type]

    step = job.plan.steps[0]
    key = job.keys[step.name]
    assert {"model", "data"} <= job.parts[step.name].keys()
    monkeypatch.setattr(making, "run_pass", changed_first)
    (cache.work(key) / "checkpoint").write_text("of what was read")
    with pytest.raises(DataError) as caught:
        make_step(step, job, {}, cache, SilentProgress())
    assert caught.value.code == "source-changed"
    assert caught.value.where == (str(where[0]) if where[0] else None)
    assert cache.find(key) is None
    assert not (cache.root / "work" / key).exists()


def test_data_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import compress.engine.resolve as resolve

    profile = write_job(tmp_path / "job", teacher={"model": "teacher"})
    load = resolve.load_data

    def load_then_change(*arguments: object) -> object:
        found = load(*arguments)  # type: ignore[arg-type]
        change_data(tmp_path / "job")
        return found

    monkeypatch.setattr(resolve, "load_data", load_then_change)
    with pytest.raises(DataError) as caught:
        resolve_job(load_profile(profile), allow_code=False)
    assert caught.value.code == "source-changed"
