"""The benchmark of CUDA where there is none: what it lacks is told, and no part makes another one suffer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "cuda.py"


def told(out: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads((out / "cuda.json").read_text())["parts"]
    return parts


def run(out: Path, *words: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_part_that_lacks_something_says_what_and_the_next_one_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "forward", "onnxruntime")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("forward", "onnxruntime"):
        part = told(tmp_path)[name]
        assert (part["how"], part["why"]) == ("skipped", f"torch {torch.__version__} sees no CUDA device")
    page = (tmp_path / "cuda.md").read_text()
    assert page.count("sees no CUDA device") == 2
    assert page.index("## forward") < page.index("## onnxruntime")


@pytest.mark.slow
def test_a_part_is_ended_at_its_limit_and_what_it_found_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that tells one row and then hangs, with a child of its own."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import cuda

    body = """
import json, subprocess, sys, time
rows = sys.argv[sys.argv.index("--out") + 1] + "/rows.jsonl"
open(rows, "a").write(json.dumps({"part": "latency", "p50 ms": 1.5}) + "\\n" + '{"part": "laten')
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(rows + ".child", "w").write(str(child.pid))
time.sleep(60)
"""
    (tmp_path / "hangs.py").write_text(body)
    monkeypatch.setattr(cuda, "__file__", str(tmp_path / "hangs.py"))
    ended = cuda.supervise("latency", tmp_path, tmp_path, False, 4.0)
    assert (ended.how, ended.seconds < 30) == ("stopped", True)
    cuda.write(tmp_path, [ended], False)
    assert told(tmp_path)["latency"]["rows"] == [{"p50 ms": 1.5}]
    assert "at its limit of 4 s" in (tmp_path / "cuda.md").read_text()
    child = Path(f"/proc/{(tmp_path / 'rows.jsonl.child').read_text()}/cmdline")
    # What was killed is gone a moment later.
    ends = time.monotonic() + 10
    while child.exists() and child.read_bytes() != b"" and time.monotonic() < ends:
        time.sleep(0.05)
    assert not child.exists() or child.read_bytes() == b""


def test_the_parts_are_those_of_the_folder_and_each_says_what_it_measures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import cuda

    files = {file.stem for file in (SCRIPT.parent / "cuda_parts").glob("*.py")} - {"__init__", "part"}
    assert set(cuda.SECONDS) == files
    assert sum(cuda.SECONDS.values()) == 8 * 60
    assert all(len(cuda.introduction(name)) > 40 for name in files)
