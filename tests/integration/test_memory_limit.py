"""A device too small for the baseline: the run goes on to the model that fits, and says what does not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from compress.core.errors import TargetError
from compress.core.records import RunRecord
from compress.core.terminal.progress import SilentProgress
from compress.engine.running import run_job
from compress.reporting.data.frame import contract
from compress.reporting.render.terminal import summary_lines
from compress.reporting.render.write import write_report
from compress.store.cache import Cache
from tests.made_jobs import Make, made_job, profile_of
from tests.tiny_onnx import LABELS, VOTES, write_votes_artifact

ALLOWED_MB = 140
LIGHT: Make = write_votes_artifact
HEAVY: Make = partial(write_votes_artifact, ballast_mb=60)


def run_of(folder: Path, baseline: Make, deployed: Make) -> RunRecord:
    lines = [f"{word} {other},{LABELS[vote]}" for word, vote in VOTES.items() for other in VOTES]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    profile = profile_of(targets=[{"name": "small", "memory_limit_mb": ALLOWED_MB}])
    made = {"source": baseline, "source.onnx": baseline, "quantize": deployed}
    cache = Cache(folder / "cache")
    return run_job(
        made_job(folder, cache, profile, made), cache, folder, SilentProgress(), lambda run, record: None
    )[0]


@pytest.mark.slow
def test_a_baseline_that_does_not_fit_is_told_and_ends_nothing(tmp_path: Path):
    run = run_of(tmp_path, HEAVY, LIGHT)
    assert run.status == "ok"
    assert [step.measurements[0].memory.over_limit for step in run.steps] == [True, False]
    said = "'baseline' does not fit small: "
    assert said in " ".join(map(str, summary_lines(run)))
    rows = contract(run)["rows"]
    assert [row["targets"][0]["memory_limit_mb"] for row in rows] == [ALLOWED_MB, ALLOWED_MB]
    assert rows[0]["targets"][0]["absolute_peak_memory_mb"] > ALLOWED_MB
    written = write_report(run, tmp_path / "reports").markdown.read_text()
    assert said in written
    assert f"no: {ALLOWED_MB} MB" in written
    assert f"yes: {ALLOWED_MB} MB" in written


@pytest.mark.slow
def test_a_deployed_model_that_does_not_fit_is_an_error(tmp_path: Path):
    with pytest.raises(TargetError, match=rf"`memory_limit_mb` allows {ALLOWED_MB} MB") as caught:
        run_of(tmp_path, LIGHT, HEAVY)
    assert caught.value.where == "small"
