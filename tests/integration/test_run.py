"""The main job end to end, on a tiny model: every pass, the measuring, the report, the bundle; again, and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from compress.measuring import transport
from tests.jobs import compress, report_of, write_job
from tests.processes import run_all_in_forks, start_compress

COLUMNS = {
    "step", "role", "score", "retention", "latency_p50_ms", "latency_p95_ms", "speedup", "throughput",
    "peak_memory_mb", "size_mb", "parameters", "macs", "seconds", "artifact",
}  # fmt: skip
STABLE = ("step", "role", "score", "retention", "size_mb", "parameters", "macs", "artifact")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    result = compress("run", write_job(folder), folder=folder)
    assert result.returncode == 0, result.stderr + result.stdout
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished job in a folder of its own, to change it."""
    shutil.copytree(finished, tmp_path / "job")
    return tmp_path / "job"


def untrained(finished: Path, folder: Path) -> Path:
    """The profile of the finished job in a folder where nothing is made yet but the float ONNX files.

    To write them takes most of a run's time; the steps before them are made again, and after them.
    """
    for name in ("teacher", "cache"):
        shutil.copytree(finished / name, folder / name)
    for name in ("data.csv", "tiny.yaml"):
        shutil.copy(finished / name, folder / name)
    for sealed in (folder / "cache" / "artifacts").glob("*/artifact.json"):
        form = json.loads(sealed.read_text())["form"]
        if (form["framework"], form["numbers"], form["bundled"]) != ("onnx", "float", False):
            shutil.rmtree(sealed.parent)
    for name in ("measurements", "signals", "work"):
        shutil.rmtree(folder / "cache" / name)
    return folder / "tiny.yaml"


def trained_weights(folder: Path) -> dict[str, bytes]:
    """The weights of all torch models of the cache, by the keys of their steps."""
    files = (folder / "cache" / "artifacts").glob("*/model.safetensors")
    return {file.parent.name: file.read_bytes() for file in files}


def was_disturbed(row: dict[str, Any]) -> bool:
    """Whether other processes disturbed any timing of a row, so that the next run measures it again."""
    return any(timing["disturbed"] for target in row["targets"] for timing in target["latency"])


def artifacts(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache" / "artifacts").iterdir()}


def test_the_report_holds_the_contract(finished: Path):
    report = report_of(finished)
    assert report["status"] == "ok"
    assert [row["step"] for row in report["rows"]] == ["baseline", "distill", "prune", "quantize", "export"]
    for row in report["rows"]:
        assert set(row) >= COLUMNS
        assert row["latency_p50_ms"] > 0
        assert row["size_mb"] > 0
    baseline, last = report["rows"][0], report["rows"][-1]
    assert baseline["retention"] == 1.0
    assert baseline["score"] > 0.8
    assert last["parameters"] < baseline["parameters"]
    assert last["size_mb"] < baseline["size_mb"]
    for name in ("report.html", "report.md", "rows.csv"):
        assert (finished / "reports" / "tiny" / name).stat().st_size > 0


def test_report_json_prints_the_report(finished: Path):
    result = compress("report", "tiny", "--json", folder=finished)
    assert json.loads(result.stdout) == report_of(finished)


def test_the_bundle_runs_without_the_package_and_verifies(finished: Path):
    bundle = Path(report_of(finished)["bundle"])
    assert bundle == next((finished / "runs").iterdir()) / "bundle"
    assert {"model.onnx", "model.ort", "manifest.json", "predict.py", "tokenizer.json", "labels.json"} <= {
        file.name for file in bundle.iterdir()
    }
    predicted = subprocess.run(
        [sys.executable, "predict.py", "the red and the blue red"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "colour" in predicted.stdout
    result = compress("verify", bundle, folder=finished)
    assert result.returncode == 0, result.stderr


def test_verify_finds_a_changed_file(copy: Path):
    (run,) = (copy / "runs").iterdir()
    file = run / "bundle" / "labels.json"
    file.write_text(file.read_text() + " ")
    result = compress("verify", run / "bundle", folder=copy)
    assert result.returncode == 6
    assert "labels.json" in result.stderr


def test_a_second_run_does_nothing_again_and_leaves_the_same_report(copy: Path):
    before = (copy / "reports" / "tiny" / "report.json").read_bytes()
    made = artifacts(copy)
    # Without the run's own records everything has to come from the cache.
    shutil.rmtree(copy / "runs")
    result = compress("run", copy / "tiny.yaml", folder=copy)
    assert result.returncode == 0, result.stderr
    assert artifacts(copy) == made
    first, second = json.loads(before), report_of(copy)
    # What others disturbed is measured again, whoever asks for it, and the rows after it are told beside it.
    disturbed = any(map(was_disturbed, first["rows"]))
    for one, other in zip(first["rows"], second["rows"], strict=True):
        keys = STABLE if disturbed else tuple(one)
        assert [one[key] for key in keys if key != "artifact"] == [
            other[key] for key in keys if key != "artifact"
        ]


def test_changing_quantize_redoes_only_what_follows(copy: Path):
    plan = compress(
        "plan", copy / "tiny.yaml", "--json", "--set", "passes.2.quantize.per_channel=false", folder=copy
    )
    states = {row["name"]: (row["state"], row["reason"]) for row in json.loads(plan.stdout)}
    assert states["quantize"] == ("to do", "changed: spec.per_channel")
    assert states["export"] == ("to do", "changed: inputs.model")
    assert {state for name, (state, _) in states.items() if name not in ("quantize", "export")} == {"cached"}
    made = artifacts(copy)
    result = compress("run", copy / "tiny.yaml", "--set", "passes.2.quantize.per_channel=false", folder=copy)
    assert result.returncode == 0, result.stderr
    assert len(artifacts(copy) - made) == 2


@pytest.mark.slow
def test_training_for_integers_stands_in_the_row_of_quantize(copy: Path):
    train = "passes.2.quantize.train={epochs: 1, batch_size: 16}"
    result = compress("run", copy / "tiny.yaml", "--set", train, folder=copy)
    assert result.returncode == 0, result.stderr
    assert [row["step"] for row in report_of(copy)["rows"]] == [
        "baseline",
        "distill",
        "prune",
        "quantize",
        "export",
    ]
    assert "quantize, train" in (copy / "reports" / "tiny" / "report.md").read_text()


def test_a_new_budget_measures_nothing_and_a_missed_one_exits_with_3(copy: Path):
    measurements = sorted((copy / "cache" / "measurements").iterdir())
    result = compress("run", copy / "tiny.yaml", "--set", "budget.size_mb=0.0001", folder=copy)
    assert result.returncode == 3
    assert "the budget is missed: size_mb of export" in result.stderr
    assert report_of(copy)["status"] == "budget_missed"
    assert sorted((copy / "cache" / "measurements").iterdir()) == measurements


def test_compare_and_cache_list(copy: Path):
    compress("run", copy / "tiny.yaml", "--set", "budget.size_mb=1", folder=copy)
    runs = sorted(path.name for path in (copy / "runs").iterdir())
    result = compress("compare", *runs, folder=copy)
    assert result.returncode == 0, result.stderr
    listed = compress("cache", "list", folder=copy)
    assert "tiny / quantize" in listed.stdout
    assert compress("cache", "prune", "--everything", folder=copy).returncode == 0
    assert artifacts(copy) == set()


def test_a_damaged_artifact_is_made_again(copy: Path):
    row = report_of(copy)["rows"][1]
    weights = copy / "cache" / row["artifact"] / "model.safetensors"
    digest = weights.read_bytes()
    # As long as it was: only its hash tells.
    weights.write_bytes(digest[:-1] + bytes([digest[-1] ^ 1]))
    shutil.rmtree(copy / "runs")
    assert compress("run", copy / "tiny.yaml", folder=copy).returncode == 0
    assert weights.read_bytes() == digest


def test_a_bundle_and_records_that_were_damaged_are_written_anew(copy: Path):
    (run,) = (copy / "runs").iterdir()
    file = run / "bundle" / "model.onnx"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    made = artifacts(copy)
    assert compress("run", copy / "tiny.yaml", folder=copy).returncode == 0
    assert file.read_bytes() == whole
    (run / "run.json").write_text('{"run": ')
    assert compress("run", copy / "tiny.yaml", folder=copy).returncode == 0
    assert report_of(copy)["status"] == "ok"
    assert artifacts(copy) == made


def test_two_runs_at_once_share_the_work(finished: Path, tmp_path: Path):
    profile = untrained(finished, tmp_path)
    folders = [tmp_path / "one", tmp_path / "two"]
    running = []
    for folder in folders:
        folder.mkdir()
        running.append(start_run(profile, folder, tmp_path / "cache"))
    for process in running:
        process.join(300)
    errors = [(folder / "errors").read_text() for folder in folders]
    assert [process.exitcode for process in running] == [0, 0], errors
    first, second = (report_of(folder)["rows"] for folder in folders)
    assert [row["artifact"] for row in first] == [row["artifact"] for row in second]
    for one, other in zip(first, second, strict=True):
        assert was_disturbed(one) or one["latency_p50_ms"] == other["latency_p50_ms"]


def test_killed_while_training_it_goes_on_and_ends_the_same(finished: Path, tmp_path: Path):
    profile = untrained(finished, tmp_path)
    there = len(artifacts(tmp_path))
    # The teacher as it was given is the first step, and each after it trains.
    for finished_steps in (1, 2, 3):
        process = start_run(profile, tmp_path, tmp_path / "cache")
        try:
            wait_for_steps(tmp_path, there + finished_steps, process)
            time.sleep(0.3)
        finally:
            process.kill()
            process.join()
    result = compress("run", "tiny.yaml", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert trained_weights(tmp_path) == trained_weights(finished)
    first, second = report_of(finished), report_of(tmp_path)
    assert [[row[name] for name in STABLE] for row in first["rows"]] == [
        [row[name] for name in STABLE] for row in second["rows"]
    ]


def start_run(profile: Path, folder: Path, cache: Path) -> BaseProcess:
    return start_compress("run", profile, folder=folder, cache=cache, errors=folder / "errors")


def wait_for_steps(folder: Path, count: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while len(list((folder / "cache" / "artifacts").glob("*/artifact.json"))) < count:
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.05)


def test_interrupting_says_how_to_go_on(tmp_path: Path):
    profile = write_job(tmp_path)
    process = start_run(profile, tmp_path, tmp_path / "cache")
    wait_for_steps(tmp_path, 1, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    errors = (tmp_path / "errors").read_text()
    assert process.exitcode == 130, errors
    assert "resumes from the last checkpoint" in errors
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


def test_data_that_cannot_be_used_leaves_no_run_directory(tmp_path: Path):
    profile = write_job(tmp_path)
    (tmp_path / "data.csv").write_text("text,label\nhello,a\nworld,a\n")
    result = compress("run", profile, folder=tmp_path)
    assert result.returncode == 4
    assert not (tmp_path / "runs").exists()


def test_a_cuda_target_without_cuda_is_refused_before_any_work(tmp_path: Path):
    profile = write_job(tmp_path, targets=[{"device": "cuda"}])
    result = compress("run", profile, folder=tmp_path)
    assert result.returncode == 5
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_control_trimming_augmenting_heads_and_four_bits_on_both_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passes = [
        {
            "distill": {
                "student": {"layers": [1], "hidden_size": 64},
                "vocabulary": {"margin": 2},
                "augment": {"copies": 1},
                "control": True,
                "epochs": 2,
                "learning_rate": 5e-3,
            }
        },
        {"prune": {"remove": {"heads": 0.5}, "importance": "magnitude", "recover": {"epochs": 1}}},
        {"quantize": {"bits": 4, "block_size": 16}},
        {"export": {"golden": 2}},
    ]
    profile = write_job(tmp_path, hidden=128, passes=passes)
    result = compress("run", profile, folder=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    rows = report_of(tmp_path)["rows"]
    assert [(row["step"], row["role"]) for row in rows] == [
        ("baseline", "baseline"), ("distill.control", "control"), ("distill", "step"), ("prune", "step"),
        ("quantize", "step"), ("export", "step"),
    ]  # fmt: skip
    by_step = {row["step"]: row for row in rows}
    assert by_step["distill.control"]["parameters"] == by_step["distill"]["parameters"]
    assert by_step["prune"]["parameters"] < by_step["distill"]["parameters"]
    assert by_step["quantize"]["size_mb"] < 0.7 * by_step["prune"]["size_mb"]
    monkeypatch.setattr(transport, "run_all", run_all_in_forks)
    torch_passes = json.dumps([{"distill": {**passes[0]["distill"], "control": False}}])
    on_torch = compress(
        "run",
        profile,
        "--set",
        "targets=[{runtime: torch}]",
        "--set",
        f"passes={torch_passes}",
        folder=tmp_path,
    )
    assert on_torch.returncode == 0, on_torch.stderr
    assert [row["score"] for row in report_of(tmp_path)["rows"]] == pytest.approx(
        [by_step[name]["score"] for name in ("baseline", "distill")], abs=0.03
    )


def test_a_failed_step_leaves_its_record_and_a_report_and_the_run_can_be_mended(copy: Path):
    broken = "passes.2.quantize.exclude=['no such layer']"
    result = compress("run", copy / "tiny.yaml", "--set", broken, folder=copy)
    assert result.returncode == 4
    assert "no layer of the model matches the pattern 'no such layer'" in result.stderr
    report = report_of(copy)
    assert report["status"] == "failed"
    assert [row["step"] for row in report["rows"]] == ["baseline", "distill", "prune", "quantize"]
    assert "no such layer" in report["rows"][-1]["error"]
    assert not list((copy / "cache" / "artifacts").glob("*/.optimized*"))
    assert compress("run", copy / "tiny.yaml", folder=copy).returncode == 0
    assert report_of(copy)["status"] == "ok"
