"""Passes time on the first target that runs onnxruntime, and it is said where that is not the first target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compress.cli.root import main
from compress.profile.load import load_profile
from compress.profile.schema import TargetSpec
from compress.profile.timing_target import timing_target
from tests.profiles import write_profile

PI: dict[str, Any] = {"device": "ssh://pi@board", "name": "pi", "threads": 4}
GPU: dict[str, Any] = {"device": "cuda", "name": "gpu"}
IN_TORCH: dict[str, Any] = {"device": "cuda", "runtime": "torch", "threads": 2, "name": "torch"}
PRUNE_LATENCY = {"prune": {"target": {"latency_ms": 5}}}
PRUNE_SPEEDUP = {"prune": {"target": {"speedup": 2}}}
AUTO = {"quantize": {"bits": 8}}
MIXED = {"quantize": {"scheme": "static", "mixed": {"latency_ms": 3}}}


def write(
    folder: Path, step: dict[str, Any], *targets: dict[str, Any], task: str = "text-classification"
) -> Path:
    (folder / "data.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(9)))
    return write_profile(folder / "p.yaml", task=task, passes=[step], targets=list(targets))


def test_the_first_target_that_runs_onnxruntime_times() -> None:
    pi, gpu, torch = (TargetSpec.model_validate(one) for one in (PI, GPU, IN_TORCH))
    assert timing_target([pi, gpu]) == pi
    assert timing_target([gpu, pi]) == gpu
    assert timing_target([torch, pi]) == pi
    assert timing_target([torch]) == TargetSpec(threads=2)


@pytest.mark.parametrize(("step", "key"), [(PRUNE_LATENCY, "latency_ms"), (PRUNE_SPEEDUP, "speedup")])
@pytest.mark.parametrize(("further", "where"), [([], "this machine's CPU"), ([PI], "pi")])
def test_what_is_timed_elsewhere_is_warned_of(
    tmp_path: Path, step: dict[str, Any], key: str, further: list[dict[str, Any]], where: str
) -> None:
    (warning,) = load_profile(write(tmp_path, step, IN_TORCH, *further)).warnings
    assert warning.startswith(
        f"passes.0.prune.target.{key}: this is optimized for {where}, not for torch (cuda)"
    )


@pytest.mark.parametrize(
    "step",
    [PRUNE_LATENCY, AUTO, MIXED, {"prune": {"target": {"size_mb": 5}}}, {"quantize": {"bits": 4}}],
    ids=str,
)
@pytest.mark.parametrize("target", [PI, GPU, {"device": "cpu"}], ids=str)
def test_what_is_timed_on_the_first_target_is_not(
    tmp_path: Path, step: dict[str, Any], target: dict[str, Any]
) -> None:
    assert load_profile(write(tmp_path, step, target, {"device": "ssh://other"})).warnings == ()


def test_what_depends_on_no_time_is_not(tmp_path: Path) -> None:
    for step in ({"prune": {"target": {"size_mb": 5}}}, {"prune": {"remove": {"heads": 0.5}}}):
        assert load_profile(write(tmp_path, step, IN_TORCH)).warnings == ()


def test_validate_prints_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["validate", str(write(tmp_path, PRUNE_SPEEDUP, IN_TORCH))])
    assert done.exit_code == 0, done.output
    assert "passes.0.prune.target.speedup" in done.output.replace("\n", "")
