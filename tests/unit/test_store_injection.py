"""Every single call to the disk fails once: nothing is lost, nothing half-made is left, and trying again gives what an
undisturbed run gives. The share of `tests/injection.py` that needs no training."""

from __future__ import annotations

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.disk import files
from compress.core.disk.exhaustion import resource_errors
from compress.core.errors import ResourceError
from compress.core.terminal.progress import SilentProgress
from compress.measuring.scoring import _load_reference, _store_reference
from compress.store.cache import Cache
from compress.store.checking import check, entry_paths
from compress.store.runs import RunStore
from compress.training.checkpointing import load_checkpoint, save_checkpoint
from tests.injection import ERRNOS, Failing
from tests.records import bert_run
from tests.unit.test_store import KEY, publish

RUN = bert_run().model_copy(update={"steps": bert_run().steps[:1]})
OUTPUTS = np.arange(12, dtype=np.float32).reshape(3, 4)
WEIGHTS = {"w": torch.arange(9.0)}


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder in memory: hundreds of runs force their files to the disk."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as name:
        yield Path(name)


def work(base: Path) -> None:
    """What a run writes, without what it computes; what is there already is found."""
    cache, store = Cache(base / "cache"), RunStore(base / "runs" / "job-1")
    with resource_errors(lambda: (base,)), store.lock(SilentProgress()):
        cache.prepare()
        with cache.in_use.protect([KEY]):
            store.begin(RUN.model_copy(update={"status": "running"}))
            with cache.lock(KEY, SilentProgress(), "step"):
                made = cache.find(KEY, verify_hashes=True)
                if made is None:
                    step = cache.work(KEY) / "distill"
                    if load_checkpoint(step) is None:
                        save_checkpoint(step, {"step": 3, "plan": {}}, WEIGHTS, WEIGHTS, 2)
                    save_checkpoint(step, {"step": 6, "plan": {}}, WEIGHTS, WEIGHTS, 2)
                    publish(cache)
                    made = cache.find(KEY)
            assert made is not None
            references = cache.references / f"{KEY}.npz"
            if _load_reference(references) is None:
                _store_reference({"vector": OUTPUTS}, references)
            for position, step_ in enumerate(RUN.steps):
                for measurement in step_.measurements:
                    if cache.measurement(measurement.key) is None:
                        cache.store_measurement(measurement)
                store.add(position, step_)
            store.copy_bundle(made.artifact)
            store.write(RUN)


def assert_whole(base: Path) -> None:
    """All that an undisturbed run leaves is there, and nothing else that could be taken for something."""
    cache, store = Cache(base / "cache"), RunStore(base / "runs" / "job-1")
    run = store.load()
    assert (run.status, run.steps) == (RUN.status, RUN.steps)
    made = cache.find(KEY, verify_hashes=True)
    assert made is not None
    assert (store.path / "bundle" / "model.safetensors").read_text() == "weights"
    kept = _load_reference(cache.references / f"{KEY}.npz")
    assert kept is not None
    assert np.array_equal(kept["vector"], OUTPUTS)
    assert not list((cache.root / "making").glob("[!.]*"))


def damaged(base: Path) -> list[object]:
    return [one for kind, path in entry_paths(base / "cache", base / "runs") if (one := check(kind, path))]


def test_every_call_may_fail_in_one_way(base: Path, monkeypatch: pytest.MonkeyPatch):
    fail_everywhere(base, monkeypatch, lambda number: ERRNOS[number % len(ERRNOS)])


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRNOS, ids=lambda error: errno.errorcode[error])
def test_every_call_may_fail_in_every_way(base: Path, monkeypatch: pytest.MonkeyPatch, error: int):
    fail_everywhere(base, monkeypatch, lambda number: error)


def fail_everywhere(base: Path, monkeypatch: pytest.MonkeyPatch, error_of: Callable[[int], int]) -> None:
    """Let the first call fail, then the second, and so on, until a run is over before the call that is to fail."""
    seen: Counter[str] = Counter()
    failed = number = 0
    while True:
        number += 1
        here, left, error = base / str(number), number, error_of(number)

        def at_call(name: str, error: int = error) -> None:
            nonlocal left
            seen[name] += 1
            left -= 1
            if left == 0:
                raise OSError(error, os.strerror(error))

        monkeypatch.setattr(files, "os", Failing(at_call))
        try:
            work(here)
        except ResourceError:
            failed += 1
        monkeypatch.setattr(files, "os", os)
        if left > 0:
            break
        assert damaged(here) == [], f"call {number}"
        work(here)
        assert_whole(here)
        assert damaged(here) == []
    assert failed > number / 2
    assert {"open", "write", "fsync", "replace", "rename", "unlink", "mkdir"} <= seen.keys()
