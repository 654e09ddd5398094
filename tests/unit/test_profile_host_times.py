"""Keys that are reached on this machine's CPU are warned of where the model will run elsewhere, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from compress.cli import main
from compress.profile.load import load_profile

ELSEWHERE = [{"device": "ssh://pi@board", "name": "pi"}, {"device": "cuda", "name": "gpu"}]
PRUNE_LATENCY = {"prune": {"target": {"latency_ms": 5}}}
PRUNE_SPEEDUP = {"prune": {"target": {"speedup": 2}}}
AUTO = {"quantize": {"bits": 8}}
MIXED = {"quantize": {"scheme": "static", "mixed": {"latency_ms": 3}}}
INDEPENDENT = [
    {"prune": {"target": {"size_mb": 5}}},
    {"prune": {"remove": {"heads": 0.5}}},
    {"quantize": {"scheme": "dynamic"}},
    {"quantize": {"scheme": "static", "mixed": {"size_mb": 3}}},
    {"quantize": {"format": "qdq"}},
    {"quantize": {"bits": 4}},
    {"quantize": {"bits": 16}},
]


def write(
    folder: Path, step: dict[str, Any], *targets: dict[str, Any], task: str = "text-classification"
) -> Path:
    (folder / "data.csv").write_text("text,label\nhello,a\n")
    body = {
        "name": "job",
        "task": task,
        "data": {"path": "data.csv"},
        "teacher": {"model": "owner/model"},
        "passes": [step],
        "targets": list(targets),
    }
    file = folder / "p.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return file


@pytest.mark.parametrize("target", ELSEWHERE, ids=lambda target: target["name"])
@pytest.mark.parametrize(
    ("step", "key"),
    [
        (PRUNE_LATENCY, "prune.target.latency_ms"),
        (PRUNE_SPEEDUP, "prune.target.speedup"),
        (AUTO, "quantize.scheme"),
        (MIXED, "quantize.mixed.latency_ms"),
    ],
)
def test_what_is_timed_here_is_warned_of(
    tmp_path: Path, step: dict[str, Any], key: str, target: dict[str, Any]
) -> None:
    (warning,) = load_profile(write(tmp_path, step, target, {"device": "cpu"})).warnings
    assert warning.startswith(f"passes.0.{key}: ")
    assert f"on this machine's CPU, not on {target['name']} ({target['device']})" in warning
    # The first target decides: where that is this machine, what is timed is what was asked for.
    assert load_profile(write(tmp_path, step, {"device": "cpu"}, target)).warnings == ()


@pytest.mark.parametrize("step", INDEPENDENT, ids=str)
def test_what_depends_on_no_time_is_not(tmp_path: Path, step: dict[str, Any]) -> None:
    assert load_profile(write(tmp_path, step, ELSEWHERE[0])).warnings == ()


def test_convolutions_have_one_scheme(tmp_path: Path) -> None:
    (warning,) = load_profile(write(tmp_path, AUTO, ELSEWHERE[0], task="image-classification")).warnings
    assert "`auto` (of a model without convolutions) takes what is faster" in warning


def test_validate_prints_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["validate", str(write(tmp_path, PRUNE_SPEEDUP, ELSEWHERE[0]))])
    assert done.exit_code == 0, done.output
    assert "passes.0.prune.target.speedup" in done.output.replace("\n", "")
