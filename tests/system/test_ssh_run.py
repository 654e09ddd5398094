"""A run whose target is a device over ssh: it goes away and comes back; and what `compress targets` shows of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.jobs import compress_alone, facts_of, report_of, write_job
from tests.sshd import Sshd, running_under, soon
from tests.tiny_language import profile, toy, write_model, write_texts

pytestmark = pytest.mark.system


def target_on(sshd: Sshd, place: Path) -> dict[str, Any]:
    return {"name": "board", "device": sshd.device, "python": sys.executable, "folder": str(place)}


def test_a_run_whose_device_went_away_is_resumed(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    target = target_on(sshd, place)
    passes = [{"quantize": {"bits": 8, "scheme": "dynamic"}}, {"export": {"formats": ["onnx"], "golden": 2}}]
    # Long enough to be cut while it is timed.
    profile = write_job(
        folder, passes=passes, targets=[target], measure={"min_seconds": 8, "min_rounds": 5, "patience_s": 0}
    )
    results: list[subprocess.CompletedProcess[str]] = []
    worker = threading.Thread(target=lambda: results.append(compress_alone("run", profile, folder=folder)))
    worker.start()
    measurements = folder / "cache" / "measurements"
    try:
        assert soon(lambda: measurements.is_dir() and list(measurements.iterdir()), 180)
        assert soon(lambda: running_under(place))
        time.sleep(1)
    finally:
        sshd.cut()
    worker.join(120)
    assert results[0].returncode == 5
    assert "was lost while" in results[0].stderr
    made = {path.name: path.stat().st_mtime_ns for path in measurements.iterdir()}
    artifacts = {path.name for path in (folder / "cache" / "artifacts").iterdir()}
    again = compress_alone("run", profile, folder=folder)
    assert again.returncode == 0, again.stderr
    assert made.items() <= {path.name: path.stat().st_mtime_ns for path in measurements.iterdir()}.items()
    assert artifacts <= {path.name for path in (folder / "cache" / "artifacts").iterdir()}
    assert [row["step"] for row in report_of(folder)["rows"]] == ["baseline", "quantize", "export"]
    assert list(place.iterdir()) == []


def test_passes_time_on_the_device(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    """Pruned for a speed-up, the scheme left open, layers given back for a latency: all of that there."""
    folder = tmp_path / "job"
    passes = [
        {"prune": {"target": {"speedup": 1.2}, "round_to": 8, "recover": None}},
        {"quantize": {"bits": 8, "mixed": {"latency_ms": 50, "minutes": 0.2}}},
        {"export": {"formats": ["onnx"], "golden": 2}},
    ]
    targets = [target_on(sshd, place), {"name": "here"}]
    profile = write_job(folder, 256, passes=passes, targets=targets, teacher={"model": "teacher"})
    result = compress_alone("run", profile, folder=folder)
    assert result.returncode == 0, result.stderr
    assert "on board" in result.stdout + result.stderr
    facts = facts_of(folder)
    assert facts["prune"]["target"]["timed_on"] == "board"
    assert facts["quantize"]["timed_on"] == "board"
    assert facts["quantize"]["mixed"]["timed_on"] == "board"
    assert list(place.iterdir()) == []


def test_targets_shows_what_each_target_is(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    target = target_on(sshd, place)
    gone = {**target, "name": "gone", "device": "ssh://127.0.0.1:1"}
    profile = write_job(tmp_path / "job", targets=[{"threads": 1}, target, gone])
    result = compress_alone("targets", profile, folder=tmp_path / "job")
    assert result.returncode == 5
    assert "1 of 3 targets cannot be used: gone" in result.stderr
    assert "Connection refused" in result.stdout
    assert "board" in result.stdout


def test_a_language_model_is_measured_on_the_device(
    sshd: Sshd, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "job"
    write_model(folder / "model")
    write_texts(folder / "data")
    target = {**target_on(sshd, place), "sequence_lengths": [16], "batch_sizes": [1, 2]}
    passes = [{"quantize": {"bits": 4, "method": "rtn", "block_size": 16}}, {"export": {"golden": 2}}]
    body = profile(teacher={"model": "model"}, targets=[target], passes=passes)
    body["budget"] = {"decode_tokens_per_s": 1, "token_p95_ms": 10_000}
    (folder / "p.yaml").write_text(yaml.safe_dump(body))
    result = compress_alone("run", folder / "p.yaml", folder=folder)
    # On a busy machine the limits are not judged.
    assert result.returncode in (0, 3), result.stderr
    report = report_of(folder, "tiny-lm")
    assert report["status"] in ("ok", "not_judged")
    assert [row["step"] for row in report["rows"]] == ["baseline", "quantize", "export"]
    for row in report["rows"]:
        (found,) = row["targets"]
        write = next(one for one in found["latency"] if one["lengths"] == "write:16")
        assert row["decode_tokens_per_s"] == pytest.approx(1000 / write["latency_p50_ms"])
        assert found["memory_lengths"] == "read:16 write:32"
        assert row["load_ms"] > 0
    assert list(place.iterdir()) == []


def test_a_language_model_is_pruned_taught_again_and_measured_on_the_device(
    sshd: Sshd, place: Path, tmp_path: Path
) -> None:
    """One chain, one report: the shipped profile at the size of a toy."""
    folder = tmp_path / "job"
    write_model(folder / "model")
    write_texts(folder / "data")
    target = {**target_on(sshd, place), "sequence_lengths": [16]}
    file = Path(__file__).parents[2] / "profiles" / "smollm_prune_distill.yaml"
    (folder / "p.yaml").write_text(yaml.safe_dump(toy(file, targets=[target])))
    result = compress_alone("run", folder / "p.yaml", folder=folder)
    assert result.returncode in (0, 3), result.stderr
    report = report_of(folder, "smollm_prune_distill")
    assert [row["step"] for row in report["rows"]] == ["baseline", "prune", "quantize", "export"]
    sizes = [row["size_mb"] for row in report["rows"]]
    assert sizes[2] < sizes[1] < sizes[0]
    assert all(row["decode_tokens_per_s"] > 0 for row in report["rows"])
    assert list(place.iterdir()) == []
