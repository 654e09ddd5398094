"""The cache and the run directory: finished or not there, and nothing between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from compress.core.artifacts import Artifact, open_artifact, seal
from compress.core.disk.files import file_entry, write_sealed
from compress.core.errors import CompressError, UsageError
from compress.core.forms import ONNX_FLOAT, TORCH_FLOAT
from compress.core.records import Curve, CurvePoint, RunRecord, StepRecord
from compress.core.terminal.progress import SilentProgress
from compress.store.cache import Cache
from compress.store.runs import RunStore, find_run

KEY = "a" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    store = Cache(tmp_path / "cache")
    store.prepare()
    return store


def publish(cache: Cache, key: str = KEY, text: str = "weights", step: str = "prune") -> None:
    curve = Curve(
        name="recover", points=(CurvePoint(step=1, epoch=0.5, train_loss=0.1, validation_score=None),)
    )
    with cache.staging(key) as folder:
        (folder / "model.safetensors").write_text(text)
        seal(folder, TORCH_FLOAT, {"parameters": 3})
        cache.publish(
            key,
            folder,
            seconds=1.5,
            curves=(curve,),
            labels={"step": step, "profile": "job", "form": "torch float"},
            parts={"spec": {"epochs": 1}},
        )


def test_what_was_published_is_found_with_what_its_making_found_out(cache: Cache):
    assert cache.find(KEY) is None
    publish(cache)
    made = cache.find(KEY)
    assert made is not None
    assert made.seconds == 1.5
    assert made.curves[0].points[0].train_loss == 0.1
    assert made.artifact.facts == {"parameters": 3}
    assert made.artifact.size_mb == pytest.approx(7e-6)


def test_publishing_removes_the_checkpoints(cache: Cache):
    work = cache.work(KEY)
    (work / "checkpoint").write_text("x")
    publish(cache)
    assert not work.exists()


def test_using_a_step_removes_the_checkpoints_of_one_killed_after_it_was_published(cache: Cache):
    publish(cache)
    (cache.work(KEY) / "checkpoint.safetensors").write_text("half")
    (cache.work("b" * 64) / "checkpoint.safetensors").write_text("half")
    cache.mark_used(KEY)
    assert [folder.name for folder in (cache.root / "work").iterdir()] == ["b" * 64]
    assert cache.find(KEY) is not None


@pytest.mark.parametrize("damage", ["change", "remove", "seal"])
def test_a_damaged_artifact_is_not_found(cache: Cache, damage: str):
    publish(cache)
    folder = cache.root / "artifacts" / KEY
    if damage == "change":
        (folder / "model.safetensors").write_text("other weights")
    else:
        (folder / ("artifact.json" if damage == "seal" else "model.safetensors")).unlink()
    assert cache.find(KEY) is None
    publish(cache)
    assert cache.find(KEY) is not None


def test_an_artifact_whose_bytes_were_changed_in_place_is_found_out(cache: Cache):
    publish(cache)
    (cache.root / "artifacts" / KEY / "model.safetensors").write_text("Weights")
    assert cache.find(KEY) is not None
    assert cache.find(KEY, verify_hashes=True) is None
    publish(cache)
    assert cache.find(KEY, verify_hashes=True) is not None


@pytest.mark.parametrize("text", ["", '{"seconds": 1', "[]", "{}"])
def test_damaged_notes_are_no_notes(cache: Cache, text: str):
    publish(cache)
    (cache.root / "steps" / f"{KEY}.json").write_text(text)
    assert cache.find(KEY) is None
    assert cache.entries() == []
    assert cache.parts_of("prune", "job") == []
    (cache.root / "measurements" / f"{KEY}.json").write_text(text)
    assert cache.measurement(KEY) is None


def test_what_is_not_published_goes(cache: Cache):
    with cache.staging(KEY) as folder:
        (folder / "model.safetensors").write_text("half")
    assert list((cache.root / "making").iterdir()) == []


def test_a_directory_without_a_seal_is_no_artifact(tmp_path: Path):
    with pytest.raises(CompressError, match="not a finished artifact"):
        open_artifact(tmp_path)


def test_the_digest_depends_on_content_only_and_the_runtime_digest_on_what_is_loaded(cache: Cache):
    publish(cache, "b" * 64)
    publish(cache, "c" * 64)
    publish(cache, "d" * 64, text="others")
    first, same, other = (cache.find(letter * 64) for letter in "bcd")
    assert first is not None
    assert same is not None
    assert other is not None
    assert first.artifact.digest == same.artifact.digest != other.artifact.digest
    assert first.artifact.runtime_digest == same.artifact.runtime_digest != other.artifact.runtime_digest


def _hold(root: Path, key: str, held: str) -> None:
    with Cache(root).lock(key, SilentProgress(), "step"):
        Path(held).touch()
        time.sleep(60)


def test_a_lock_is_free_again_when_its_process_is_killed(cache: Cache, tmp_path: Path):
    held = tmp_path / "held"
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(cache.root, KEY, str(held)))
    process.start()
    try:
        while not held.exists():
            time.sleep(0.02)
        assert cache.remove(KEY) is False
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.join()
    with cache.lock(KEY, SilentProgress(), "step"):
        pass
    assert cache.remove(KEY) is True


def test_pruning_removes_artifacts_and_leftovers(cache: Cache):
    publish(cache, "b" * 64)
    (cache.work("c" * 64) / "checkpoint").write_text("12345")
    assert [entry.key for entry in cache.entries()] == ["b" * 64]
    assert cache.remove_leftovers() == 5
    assert cache.find("b" * 64) is not None
    cache.remove("b" * 64)
    assert cache.entries() == []
    assert cache.parts_of("prune", "job") == [{"spec": {"epochs": 1}}]


def say(cache: Cache, key: str) -> Path:
    """What a teacher said, as `compress.training.signals.teachers` leaves it."""
    folder = cache.signals / key
    folder.mkdir()
    write_sealed(folder / "teacher.json", {"title": "teacher on 3 examples"})
    (folder / "outputs.bin").write_bytes(bytes(100))
    write_sealed(folder / "outputs.layout", {"files": {"outputs.bin": file_entry(folder / "outputs.bin")}})
    write_sealed(folder / "feature.a%2Fb.layout", {"files": {}})
    return folder


def test_teachers_signals_are_listed_and_removed(cache: Cache):
    folder = say(cache, "e" * 64)
    (entry,) = cache.signals_entries()
    assert (entry.key, entry.title) == ("e" * 64, "teacher on 3 examples")
    assert entry.signals == ("feature.a/b", "outputs")
    assert entry.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert cache.remove_signals("e" * 64) is True
    assert cache.signals_entries() == []
    assert not folder.exists()


def test_signals_that_are_being_computed_are_not_removed(cache: Cache):
    folder = say(cache, "e" * 64)
    with FileLock(str(folder.with_suffix(".lock"))):
        assert cache.remove_signals("e" * 64) is False
    assert folder.exists()


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressError, match="the cache cannot be written"):
        Cache(tmp_path / "file").prepare()


def a_run(**changes: object) -> RunRecord:
    values = {
        "run": "job-1",
        "profile": "job",
        "task": "text-classification",
        "metric": "accuracy",
        "status": "running",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 0.0,
        "labels": ("a", "b"),
        "splits": {"train": 1},
        "seed": 0,
        "profile_text": "name: job\n",
        "environment": {},
        "targets": ("cpu",),
        "steps": (),
    }
    return RunRecord.model_validate({**values, **changes})


def a_step(name: str) -> StepRecord:
    return StepRecord(step=name, kind=name, role="step", status="ok", key=KEY, form="torch float")


def test_a_run_comes_back_as_it_was_written(tmp_path: Path):
    store = RunStore(tmp_path / "job-1")
    store.begin(a_run())
    store.add(0, a_step("baseline"))
    store.add(1, a_step("prune"))
    loaded = store.load()
    assert loaded.steps == (a_step("baseline"), a_step("prune"))
    assert (tmp_path / "job-1" / "profile.yaml").read_text() == "name: job\n"


def test_a_run_that_was_moved_has_its_bundle_beside_it(tmp_path: Path):
    store = RunStore(tmp_path / "here" / "job-1")
    store.begin(a_run(bundle=str(store.path / "bundle")))
    (tmp_path / "here").rename(tmp_path / "there")
    assert find_run("job", tmp_path / "there").load().bundle == str(tmp_path / "there" / "job-1" / "bundle")
    RunStore(tmp_path / "job-2").begin(a_run())
    assert RunStore(tmp_path / "job-2").load().bundle is None


def test_beginning_again_forgets_the_rows_of_the_interrupted_run(tmp_path: Path):
    store = RunStore(tmp_path / "job-1")
    store.begin(a_run())
    store.add(0, a_step("baseline"))
    store.begin(a_run())
    assert store.load().steps == ()


def test_a_run_is_found_by_folder_id_or_name(tmp_path: Path):
    RunStore(tmp_path / "job-1").begin(a_run())
    for word in (str(tmp_path / "job-1"), "job-1", "job"):
        assert find_run(word, tmp_path).path.name == "job-1"
    for word in ("other", ""):
        with pytest.raises(UsageError, match=f"no run '{word}'"):
            find_run(word, tmp_path)


def test_a_profile_whose_name_begins_as_anothers_is_found(tmp_path: Path):
    for name in ("job-1", "job_of_others-2", "job-of-others-3"):
        RunStore(tmp_path / name).begin(a_run())
        os.utime(tmp_path / name / "run.json", (int(name[-1]), int(name[-1])))
    assert find_run("job", tmp_path).path.name == "job-1"
    assert find_run("job_", tmp_path).path.name == "job_of_others-2"


def test_records_of_another_version_are_refused(tmp_path: Path):
    store = RunStore(tmp_path / "job-1")
    store.begin(a_run())
    (store.path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        store.load()


def test_what_others_put_into_a_cache_stays(cache: Cache):
    for folder in ("work", "making", "artifacts"):
        (cache.root / folder / "thesis").mkdir(parents=True)
        (cache.root / folder / "thesis" / "chapter.txt").write_text("mine")
    cache.remove_leftovers()
    assert all((cache.root / folder / "thesis" / "chapter.txt").is_file() for folder in ("work", "making"))


def test_what_others_put_into_a_bundle_stays(tmp_path: Path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "manifest.json").write_text('{"files": {"model.onnx": {}}}')
    (made / "model.onnx").write_text("model")
    artifact = Artifact(made, ONNX_FLOAT, {}, {})
    store = RunStore(tmp_path / "run")
    store.path.mkdir()
    for _ in range(2):
        store.copy_bundle(artifact)
    assert [entry.name for entry in store.path.iterdir()] == ["bundle"]
    (store.path / "bundle" / "notes.txt").write_text("mine")
    store.copy_bundle(artifact)
    assert (store.path / "bundle.kept-1" / "notes.txt").read_text() == "mine"
    assert sorted(file.name for file in (store.path / "bundle").iterdir()) == ["manifest.json", "model.onnx"]
