"""No input of others ends in an internal error, a traceback or a hang: what once did, and a few changed inputs more."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from tests.fuzzing.running import CORPUS, changed_inputs, stumbles
from tests.fuzzing.targets import TARGETS

A_FEW = 20
SECONDS = float(os.environ.get("COMPRESS_FUZZ_SECONDS", "300"))
"""Of the long test: an hour of it is `COMPRESS_FUZZ_SECONDS=3600`."""


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_once_stumbled_over_and_a_few_more(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seeds = target.prepare(tmp_path)
    kept = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    few = itertools.islice(changed_inputs(target, seeds, seed=0), len(seeds) + A_FEW)
    for data in (*kept, *few):
        said = stumbles(target, data, tmp_path)
        assert said is None, f"{data[:200]!r}\n{said}"


@pytest.mark.slow
def test_many_changed_inputs(tmp_path: Path) -> None:
    seed = time.time_ns()
    running = []
    for name, target in TARGETS.items():
        (tmp_path / name).mkdir()
        running.append((target, changed_inputs(target, target.prepare(tmp_path / name), seed)))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for target, inputs in running:
            data = next(inputs)
            said = stumbles(target, data, tmp_path / target.name)
            assert said is None, f"{target.name}: {data!r}\n{said}"
