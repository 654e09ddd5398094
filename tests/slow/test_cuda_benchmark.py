"""Every part of the benchmark of CUDA, at toy size on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_cuda_benchmark import run, told


@pytest.mark.slow
def test_every_part_runs_at_toy_size(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry", seconds=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, part in told(tmp_path).items():
        assert part["how"] == "done", (name, part["why"])
        failed = [row for row in part["rows"] if "failed" in row]
        assert not failed, (tmp_path / "cuda.log").read_text()[-5000:]
        assert part["rows"]
    exits = [row for row in told(tmp_path)["faults"]["rows"] if "exit code" in row]
    assert all(row["exit code"] == row["expected"] for row in exits)
