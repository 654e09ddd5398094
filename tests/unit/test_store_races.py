"""Several processes at one store: nothing is lost and nothing fails, whatever their order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from compress.core.artifacts import open_artifact
from compress.core.disk.files import first_damaged
from compress.core.errors import UsageError
from compress.core.terminal.progress import SilentProgress
from compress.store.cache import Cache
from compress.store.runs import RunStore
from tests.unit.test_store import KEY, a_run, a_step, publish

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    store = Cache(tmp_path / "cache")
    store.prepare()
    return store


@contextmanager
def others(calls: Sequence[tuple[Any, ...]]) -> Iterator[list[SpawnProcess]]:
    """Processes that each do one call; they are gone afterwards."""
    processes = [SPAWN.Process(target=call, args=arguments) for call, *arguments in calls]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


def _place(root: Path, run: Path, times: int) -> None:
    made = Cache(root).find(KEY)
    assert made is not None
    for _ in range(times):
        RunStore(run).copy_bundle(made.artifact)


def test_two_runs_place_one_bundle(cache: Cache, tmp_path: Path):
    publish(cache)
    made = cache.find(KEY)
    assert made is not None
    run = tmp_path / "runs" / "job-1"
    run.mkdir(parents=True)
    with others([(_place, cache.root, run, 60)] * 3) as processes:
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(os.listdir(run)) == ["bundle"]
    assert sorted(os.listdir(run / "bundle")) == ["model.safetensors"]
    entries = {name: {"sha256": sha, "bytes": size} for name, (sha, size) in made.artifact.files.items()}
    assert first_damaged(run / "bundle", entries) is None


def _publish(root: Path, times: int) -> None:
    store = Cache(root)
    for _ in range(times):
        with store.in_use.protect([]), store.lock(KEY, SilentProgress(), "step"):
            publish(store)


def _prune(root: Path, times: int) -> None:
    store = Cache(root)
    for _ in range(times):
        for entry in store.entries():
            store.remove(entry.key)
        store.remove_leftovers()


def test_pruning_while_steps_are_made_and_listed(cache: Cache):
    calls = [(_publish, cache.root, 40), (_publish, cache.root, 40), (_prune, cache.root, 40)]
    with others([*calls, (_prune, cache.root, 40)]) as processes:
        while any(process.is_alive() for process in processes):
            made = cache.find(KEY)
            assert made is None or made.artifact.facts == {"parameters": 3}
        assert [process.exitcode for process in processes] == [0] * 4
    publish(cache)
    assert open_artifact(cache.root / "artifacts" / KEY, verify_hashes=True)


def _hold(root: Path, keys: list[str], held: Path) -> None:
    with Cache(root).in_use.protect(keys):
        held.touch()
        time.sleep(60)


def test_what_a_run_uses_is_not_pruned_until_it_ends_or_dies(cache: Cache, tmp_path: Path):
    publish(cache, "b" * 64)
    publish(cache, "c" * 64)
    (cache.work("d" * 64) / "checkpoint").write_text("x")
    held = tmp_path / "held"
    with others([(_hold, cache.root, ["b" * 64, "d" * 64], held)]) as (process,):
        wait_for(held)
        assert [cache.remove(letter * 64) for letter in "bcd"] == [False, True, False]
        assert cache.remove_leftovers() == 0
        assert cache.find("b" * 64) is not None
        assert (cache.root / "work" / ("d" * 64) / "checkpoint").exists()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert cache.remove("b" * 64) is True
    assert os.listdir(cache.root / "using") == ["gate.lock"]


def _write_rows(path: Path, began: Path) -> None:
    store = RunStore(path)
    with store.lock(SilentProgress()):
        store.begin(a_run())
        began.touch()
        for position, name in enumerate(("baseline", "distill", "prune", "export")):
            store.add(position, a_step(name))
            time.sleep(0.2)
        store.write(a_run(status="ok"))


def _begin_and_die(path: Path) -> None:
    store = RunStore(path)
    with store.lock(SilentProgress()):
        store.begin(a_run())
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_run_waits_for_the_first_and_loses_none_of_its_rows(tmp_path: Path):
    path, began = tmp_path / "job-1", tmp_path / "began"
    with others([(_write_rows, path, began)]) as (first,):
        wait_for(began)
        with pytest.raises(UsageError) as caught, RunStore(path).lock(SilentProgress(), wait=False):
            pass
        assert caught.value.code == "run-locked"
        with others([(_begin_and_die, path)]) as (second,):
            first.join()
            run = RunStore(path).load()
            # The second begins where the first has ended: it saw four rows or begins all of them anew.
            assert (run.status, len(run.steps)) in {("ok", 4), ("running", 0)}
            second.join()
    run = RunStore(path).load()
    assert (run.status, run.steps) == ("running", ())


def _write_over_and_over(path: Path, began: Path, ended: Path) -> None:
    store = RunStore(path)
    while not ended.exists():
        store.begin(a_run())
        began.touch()
        for position, name in enumerate(("baseline", "distill")):
            store.add(position, a_step(name))
        store.write(a_run(status="ok"))


def test_a_run_is_read_whole_while_another_process_writes_it_anew(tmp_path: Path):
    path, began, ended = tmp_path / "job-1", tmp_path / "began", tmp_path / "ended"
    with others([(_write_over_and_over, path, began, ended)]) as (writer,):
        wait_for(began)
        runs = [RunStore(path).load() for _ in range(300)]
        ended.touch()
        writer.join()
    assert {(run.status, len(run.steps)) for run in runs} <= {("running", n) for n in range(3)} | {("ok", 2)}


def test_a_killed_run_leaves_no_lock_and_what_it_was_writing_is_pruned(cache: Cache, tmp_path: Path):
    with others([(_begin_and_die, tmp_path / "job-1")]) as (process,):
        process.join()
    with RunStore(tmp_path / "job-1").lock(SilentProgress(), wait=False):
        pass
    half = cache.root / "measurements" / ".x.json.0123abcd.tmp"
    half.write_text("12345")
    assert cache.remove_leftovers() == 5
    assert not half.exists()
