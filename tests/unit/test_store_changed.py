"""What was changed behind our back, or is lacking, is found out: it is made anew or refused, never believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from compress.cli.root import main
from compress.core.disk.files import write_sealed
from compress.core.errors import DataError, UsageError
from compress.measuring.scoring import _load_reference, _store_reference
from compress.store.cache import Cache
from compress.store.checking import check, entry_paths
from compress.store.runs import RunStore
from tests.records import bert_run
from tests.unit.test_store import KEY, a_run, a_step, publish, say


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    store = Cache(tmp_path / "cache")
    store.prepare()
    return store


def edit(file: Path, old: str, new: str) -> None:
    """Change what a file says, so that it stays valid JSON."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    json.loads(file.read_text())


def a_measurement(cache: Cache) -> Path:
    measurement = bert_run().steps[0].measurements[0].model_copy(update={"key": "9" * 64})
    cache.store_measurement(measurement)
    assert cache.measurement(measurement.key) == measurement
    return cache.root / "measurements" / f"{measurement.key}.json"


def test_a_measurement_whose_digits_were_changed_is_none(cache: Cache):
    file = a_measurement(cache)
    value = json.loads(file.read_text())["accuracy"]["metrics"][0]["value"]
    edit(file, f"{value}", "9.08")
    assert cache.measurement(file.stem) is None


def test_a_note_or_a_seal_whose_digits_were_changed_is_none(cache: Cache):
    for file, old, new in (
        (cache.root / "steps" / f"{KEY}.json", "1.5", "0.1"),
        (cache.root / "artifacts" / KEY / "artifact.json", '"parameters": 3', '"parameters": 2'),
    ):
        publish(cache)
        edit(file, old, new)
        assert cache.find(KEY) is None


def test_the_artifact_of_another_step_is_not_taken(cache: Cache):
    publish(cache, "b" * 64, "weights")
    publish(cache, "c" * 64, "others")
    artifacts = cache.root / "artifacts"
    shutil.rmtree(artifacts / ("b" * 64))
    shutil.copytree(artifacts / ("c" * 64), artifacts / ("b" * 64))
    assert cache.find("b" * 64, verify_hashes=True) is None


def test_outputs_of_a_baseline_that_were_changed_are_computed_again(tmp_path: Path):
    file = tmp_path / "references" / "a.npz"
    outputs = np.arange(12, dtype=np.float32).reshape(3, 4)
    _store_reference({"vector": outputs}, file)
    kept = _load_reference(file)
    assert kept is not None
    assert np.array_equal(kept["vector"], outputs)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert _load_reference(file) is None


def written(folder: Path) -> RunStore:
    store = RunStore(folder)
    run = a_run()
    store.begin(run)
    for position, name in enumerate(("baseline", "distill", "prune", "export")):
        store.add(position, a_step(name))
    store.write(run.model_copy(update={"status": "ok"}))
    assert len(store.load().steps) == 4
    return store


def remove_a_row(path: Path) -> None:
    (path / "records" / "01-distill.json").unlink()


def remove_all_but_one(path: Path) -> None:
    for file in sorted((path / "records").iterdir())[1:]:
        file.unlink()


def add_a_row(path: Path) -> None:
    shutil.copyfile(path / "records" / "03-export.json", path / "records" / "04-export.json")


def change_a_row(path: Path) -> None:
    edit(path / "records" / "02-prune.json", '"seconds": 0.0', '"seconds": 9.08')


def take_a_row_of_another_run(path: Path) -> None:
    other = RunStore(path.parent / "other")
    other.begin(a_run(run="other"))
    other.add(2, a_step("prune").model_copy(update={"seconds": 9.08}))
    shutil.copyfile(other.path / "records" / "02-prune.json", path / "records" / "02-prune.json")


def change_how_it_ended(path: Path) -> None:
    edit(path / "run.json", '"status": "ok"', '"status": "running"')


def cut_a_row_off(path: Path) -> None:
    file = path / "records" / "02-prune.json"
    file.write_text(file.read_text()[:100])


@pytest.mark.parametrize(
    "damage",
    [
        remove_a_row,
        remove_all_but_one,
        add_a_row,
        change_a_row,
        take_a_row_of_another_run,
        change_how_it_ended,
        cut_a_row_off,
    ],
)
def test_a_run_that_lacks_a_row_or_was_changed_is_refused(tmp_path: Path, damage: Callable[[Path], None]):
    store = written(tmp_path / "job-1")
    damage(store.path)
    with pytest.raises(UsageError) as caught:
        RunStore(store.path).load()
    assert caught.value.code == "records-damaged"


def test_what_a_killed_run_wrote_last_is_read(tmp_path: Path):
    store = RunStore(tmp_path / "job-1")
    store.begin(a_run())
    store.add(0, a_step("baseline"))
    assert [step.step for step in RunStore(store.path).load().steps] == ["baseline"]


def everything(folder: Path, cache: Cache) -> None:
    """One of all that is read back."""
    import torch

    from compress.training.checkpointing import save_checkpoint

    publish(cache)
    a_measurement(cache)
    _store_reference({"vector": np.zeros((3, 4), np.float32)}, cache.references / f"{KEY}.npz")
    weights = {"w": torch.arange(9.0)}
    save_checkpoint(cache.work("f" * 64) / "distill", {"step": 3, "plan": {}}, weights, weights, 2)
    say(cache, "e" * 64)
    written(folder / "runs" / "job-1")


DAMAGES = (
    "artifacts/*/model.safetensors",
    "artifacts/*/artifact.json",
    "steps/*.json",
    "measurements/*.json",
    "references/*.npz",
    "references/*.checksums",
    "work/*/distill/checkpoint.json",
    "work/*/distill/state-3.safetensors",
    "work/*/distill/best-2.safetensors",
    "signals/*/outputs.bin",
    "signals/*/outputs.layout",
    "signals/*/teacher.json",
    "../runs/*/run.json",
    "../runs/*/records/02-prune.json",
)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("pattern", DAMAGES)
def test_one_flipped_bit_anywhere_is_found(tmp_path: Path, cache: Cache, pattern: str):
    everything(tmp_path, cache)
    runs = tmp_path / "runs"
    assert [check(kind, path) for kind, path in entry_paths(cache.root, runs)] == [None] * 9
    (file,) = cache.root.glob(pattern) if not pattern.startswith("..") else tmp_path.glob(pattern[3:])
    flip(file)
    (finding,) = [
        one for kind, path in entry_paths(cache.root, runs) if (one := check(kind, path)) is not None
    ]
    assert file.resolve().is_relative_to(finding.path.resolve())
    finding.remove()
    assert [check(kind, path) for kind, path in entry_paths(cache.root, runs)].count(None) >= 7
    assert not any(check(kind, path) for kind, path in entry_paths(cache.root, runs))


def test_the_command_says_what_is_damaged(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch):
    everything(tmp_path, cache)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(cache.root))
    runner = CliRunner()
    assert runner.invoke(main, ["cache", "check"]).exit_code == 0
    flip(cache.root / "artifacts" / KEY / "model.safetensors")
    result = runner.invoke(main, ["cache", "check"])
    assert "model.safetensors" in result.output
    assert isinstance(result.exception, DataError) or result.exit_code == 4
    assert runner.invoke(main, ["cache", "check", "--remove"]).exit_code == 0
    assert runner.invoke(main, ["cache", "check"]).exit_code == 0
    assert not (cache.root / "artifacts" / KEY).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"title": 3}'])
def test_signals_whose_note_is_damaged_are_listed_and_can_be_removed(cache: Cache, text: str):
    folder = say(cache, "e" * 64)
    (folder / "teacher.json").write_text(text)
    (entry,) = cache.signals_entries()
    assert entry.key == "e" * 64
    assert cache.remove_signals(entry.key) is True
    assert cache.signals_entries() == []


@pytest.fixture
def here(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with that cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(cache.root))
    return tmp_path


def asked(*words: str) -> str:
    """What `compress cache` prints."""
    done = CliRunner().invoke(main, ["cache", *words])
    assert "internal error" not in done.output
    return done.output


@pytest.mark.parametrize(
    "files", [{"../../../mine": {"sha256": "0", "bytes": 1}}, ["../../../mine"], {"../../../mine": 3}, 7]
)
def test_what_a_damaged_index_names_elsewhere_is_left_alone(here: Path, cache: Cache, files: object):
    """A cache may come from somebody else, with right checksums."""
    (here / "mine").write_text("mine")
    folder = cache.work("f" * 64)
    assert (folder / "../../../mine").samefile(here / "mine")
    write_sealed(folder / "checkpoint.json", {"files": files})
    assert "1 damaged and removed" in asked("check", "--remove")
    assert (here / "mine").read_text() == "mine"
    assert list(folder.iterdir()) == []


def test_what_others_have_in_folders_of_the_same_names_is_left_alone(here: Path, cache: Cache):
    """A cache may lie where other things are."""
    theirs = [
        *(cache.root / name / "project" / "file" for name in ("artifacts", "signals", "work", "making")),
        cache.root / "work" / "project" / "checkpoint.json",
        cache.root / "steps" / "one.json",
        cache.root / "references" / "table.npz",
        here / "runs" / "theirs" / "run.json",
    ]
    for file in theirs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("theirs")
    say(cache, "e" * 64)
    assert "3 entries read" in asked("check", "--remove")
    assert "on 1 sets of inputs" in asked("prune", "--everything")
    assert [file.read_text() for file in theirs] == ["theirs"] * len(theirs)


def test_a_number_of_days_below_0_removes_nothing(here: Path, cache: Cache):
    publish(cache)
    assert "Invalid value for '--older-than'" in asked("prune", "--older-than", "-1")
    assert cache.find(KEY) is not None
