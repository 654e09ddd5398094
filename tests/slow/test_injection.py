"""A run of a tiny job dies of each call to the disk in turn; the next one finishes, with an undisturbed run's rows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.injection import Harness


@pytest.mark.slow
def test_a_run_survives_each_call_that_fails() -> None:
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as base:
        found = Harness(Path(base) / "here").go()
    print(found.words())
    assert found.faults == []
    assert sum(found.calls.values()) > 500
    assert found.states > 50
