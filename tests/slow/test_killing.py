"""Runs that are killed or whose calls fail, and what the next one reports; `python -m tests.killing` does more."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.killing import Disturbed, calls, kills


@pytest.fixture
def run() -> Iterator[Disturbed]:
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as base:
        yield Disturbed(Path(base) / "here")


def settle(run: Disturbed) -> None:
    run.finish()
    run.compare("at last")
    assert run.faults == []


@pytest.mark.slow
def test_fifty_kills_lose_nothing(run: Disturbed) -> None:
    assert kills(run, 50, random.Random(0)) == 50
    settle(run)


@pytest.mark.slow
@pytest.mark.system
def test_system_calls_of_a_run_and_its_children_that_fail(run: Disturbed) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    calls(run, 25, random.Random(0))
    settle(run)
