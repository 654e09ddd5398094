"""Rows that are there for comparison only: one that fails is told, and the run goes on without it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from compress.core.errors import PassError, ResourceError
from compress.core.records import RunRecord
from compress.core.terminal.progress import SilentProgress
from compress.engine.running import run_job
from compress.passes.quantize.kind import FP16_BASELINE
from compress.planning.steps import build_plan
from compress.reporting.data.frame import contract
from compress.reporting.render.terminal import RowLine, RunTable, summary_lines
from compress.reporting.render.write import write_report
from compress.store.cache import Cache
from compress.store.runs import RunStore
from tests.made_jobs import made_job, profile_of
from tests.records import accuracy, measurement
from tests.terminal import printed
from tests.tiny_onnx import LABELS, VOTES, write_votes_artifact

SPOILED = "the outputs differ by 0.4 of the largest one, 0.01 is allowed"


def raising(error: Exception) -> Callable[..., NoReturn]:
    def step(*_: Any) -> NoReturn:
        raise error

    return step


def run_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, **failing: Exception
) -> RunRecord:
    """The run of a plan for CUDA on this CPU, whose FP16 row fails; nothing is measured in truth.

    `failing`: errors of further steps, by the step's function in `compress.passes.quantize`.
    """
    lines = [f"{word} {other},{LABELS[vote]}" for word, vote in VOTES.items() for other in VOTES]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    profile = profile_of(targets=[{}, {"device": "cuda"}])
    plan = build_plan(profile)
    # No GPU is needed: the row of the plan for CUDA is measured on this processor.
    plan = replace(plan, rows=tuple(replace(row, device=row.device and "cpu") for row in plan.rows))
    assert FP16_BASELINE in [row.name for row in plan.rows]
    scores = accuracy((0, 1), (0, 1), None)

    def fake(artifact: Any, baseline: Any, before: Any, target: Any, *_: Any, key: str, **__: Any) -> Any:
        return measurement(scores, 0.5, 0.5, 6.0, target.label, key=key)

    monkeypatch.setattr("compress.engine.running.measure", fake)
    monkeypatch.setattr("compress.passes.quantize.half.step.run", raising(error))
    made = dict.fromkeys(("source", "source.onnx", "quantize"), write_votes_artifact)
    if "step" in failing:
        del made["quantize"]
        monkeypatch.setattr("compress.passes.quantize.step.run", raising(failing["step"]))
    cache = Cache(folder / "cache")
    run, _ = run_job(
        made_job(folder, cache, profile, made, plan),
        cache,
        folder,
        SilentProgress(),
        lambda run, record: None,
    )
    return run


@pytest.mark.parametrize("error", [PassError(SPOILED, where="quantize"), RuntimeError(SPOILED)])
def test_a_teacher_that_fp16_spoils_is_compressed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    run = run_with(tmp_path, monkeypatch, error)
    assert run.status == "ok"
    assert [(step.step, step.status) for step in run.steps] == [
        ("baseline", "cached"), (FP16_BASELINE, "failed"), ("quantize", "cached"),
    ]  # fmt: skip
    failed = run.steps[1]
    assert (failed.role, failed.measurements) == ("variant", ())
    assert SPOILED in (failed.error or "")
    body = contract(run)
    assert (body["status"], body["reason"]) == ("ok", None)
    assert [row["status"] for row in body["rows"]] == ["ok", "failed", "ok"]
    assert (body["rows"][1]["score"], body["rows"][1]["latency_p50_ms"]) == (None, None)
    assert SPOILED in body["rows"][1]["error"]
    shown = printed(RowLine(run, failed), RunTable(run), *summary_lines(run), width=200)
    assert f"'{FP16_BASELINE}', a row for comparison only, failed: " in shown
    assert f"failed: {failed.error}" in shown
    if isinstance(error, PassError):
        paths = write_report(run, tmp_path / "report")
        assert all(SPOILED in file.read_text() for file in (paths.html, paths.markdown, paths.json))


def test_a_full_disk_ends_the_run_also_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
    with pytest.raises(ResourceError, match="the disk is full"):
        run_with(tmp_path, monkeypatch, full)


def test_a_step_that_fails_after_it_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(PassError, match="did not shrink"):
        run_with(tmp_path, monkeypatch, PassError(SPOILED), step=PassError("the file did not shrink"))
    (folder,) = (tmp_path / "runs").iterdir()
    body = contract(RunStore(folder).load())
    assert [row["status"] for row in body["rows"]] == ["ok", "failed", "failed"]
    assert body["reason"] == "step 'quantize' failed: the file did not shrink"
