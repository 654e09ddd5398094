"""A machine that does other things too: what is marked, what is claimed of it, and when it is measured again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.records import RunRecord, TargetMeasurement
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.engine.running import run_job
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.feeds import scenarios
from compress.measuring.timing.latency import latency_row, time_models
from compress.profile.schema import MeasureSpec, TargetSpec
from compress.reporting.data.frame import contract
from compress.runtimes import runner
from compress.store.cache import Cache
from compress.targets.local import resolve
from tests.made_jobs import made_job, profile_of
from tests.records import accuracy, bert_run, change_step, disturbed_step, measurement
from tests.tiny import text_task
from tests.tiny_onnx import LABELS, VOTES, write_votes_artifact

BURN = "import sys\nprint('on', flush=True)\nwhile True: pass"


@pytest.fixture
def busy() -> Iterator[None]:
    """Two processes for each core, all of them busy."""
    cores = len(os.sched_getaffinity(0))
    burners = [
        subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) for _ in range(2 * cores)
    ]
    try:
        for one in burners:
            assert one.stdout is not None
            one.stdout.readline()
        yield
    finally:
        for one in burners:
            one.kill()
            one.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not runner.schedstat_files(), reason="this system does not count who waits")
def test_what_is_timed_beside_others_is_marked_and_nothing_is_claimed(busy: None, tmp_path: Path) -> None:
    # A batch takes longer than the kernel leaves a core to anyone.
    artifact = write_votes_artifact(tmp_path / "m", ballast_mb=60)
    scenario = scenarios(np.arange(1), [1], [])[0]
    inputs = text_task(16).encode(Examples(("red blue",), np.array([0])), artifact.path)
    jobs = JobFolder.of_target(tmp_path, resolve(TargetSpec(threads=1)))
    feeds, model = jobs.feeds("feeds", scenario.batches(inputs)), str(artifact.model_file)
    spec = MeasureSpec(examples=1, min_seconds=0.05, min_rounds=8)
    results = time_models(jobs, [model, model], [[feeds, feeds]], spec, processes=1)
    row = latency_row(scenario, results, 0, 1.0, 0)
    assert row.disturbance is not None
    assert (row.disturbed, row.verdict) == (True, None)
    assert row.disturbance.waited is not None
    assert row.disturbance.waited > 0.1


# Disturbed rows are measured again by the next run.

SCORES = accuracy((0, 1) * 8, (0, 1) * 8, None)


class Measured:
    """Stands for `measure`: what it says next, and how often it was asked."""

    def __init__(self) -> None:
        self.disturbed, self.calls = False, list[str]()

    def __call__(self, artifact: Any, baseline: Any, before: Any, target: Any, *_: Any, **given: Any) -> Any:
        self.calls.append(artifact.path.name)
        made = measurement(SCORES, 0.5, 0.5, 6.0, target.label, key=given["key"])
        return disturbed(made) if self.disturbed else made


def disturbed(made: TargetMeasurement) -> TargetMeasurement:
    run = change_step(bert_run(), "export", measurements=(made,))
    return disturbed_step(run, "export").steps[-1].measurements[0]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a job whose steps are made, under a budget; its `measured` stands for what measures."""
    lines = [f"{word} {other},{LABELS[vote]}" for word, vote in VOTES.items() for other in VOTES]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    cache, measured = Cache(tmp_path / "cache"), Measured()
    monkeypatch.setattr("compress.engine.running.measure", measured)
    # The two models differ, so that each is measured for itself.
    made = {
        "source": write_votes_artifact,
        "source.onnx": write_votes_artifact,
        "quantize": lambda out: write_votes_artifact(out, {**VOTES, "dog": 2}),
    }

    def once(**budget: float) -> RunRecord:
        job = made_job(tmp_path, cache, profile_of(budget=budget), made)
        return run_job(job, cache, tmp_path, SilentProgress(), lambda run, record: None)[0]

    once.measured = measured  # type: ignore[attr-defined]
    return once


def test_a_disturbed_row_is_measured_again_and_a_quiet_one_is_not(run: Any) -> None:
    run.measured.disturbed = True
    first = run(speedup=1)
    assert first.status == "not_judged"
    assert [limit.held for limit in first.limits] == [None]
    assert contract(first)["status"] == "not_judged"
    assert run.measured.calls == ["source.onnx", "quantize"]
    run.measured.disturbed = False
    second = run(speedup=0.5)
    assert second.status == "ok"
    assert run.measured.calls == ["source.onnx", "quantize"] * 2
    # The first run's own id is not finished while its rows are disturbed: now they are believed.
    third = run(speedup=1)
    assert [limit.held for limit in third.limits] == [
        second.steps[-1].measurements[0].latency[0].speedup >= 1
    ]
    assert run.measured.calls == ["source.onnx", "quantize"] * 2
    run(speedup=1)
    assert run.measured.calls == ["source.onnx", "quantize"] * 2


def test_it_is_believed_within_the_run_that_made_it(run: Any, tmp_path: Path) -> None:
    run.measured.disturbed = True
    for _ in range(2):
        # Two rows of one file are one measurement.
        found = run(size_mb=100)
        assert found.status == "ok"
        assert all(step.measurements[0].disturbed for step in found.steps)
    assert run.measured.calls == ["source.onnx", "quantize"] * 2
