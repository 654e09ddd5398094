"""The demo's own model and data, trained for less time: does the whole road hold on a real BERT?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import compress_alone, report_of

pytestmark = pytest.mark.slow

PROFILE = Path(__file__).parents[2] / "profiles" / "bert_to_tiny.yaml"
SHORTER = (
    "data.max_length=64",
    "teacher.finetune.epochs=1",
    "passes.0.distill.epochs=4",
    "passes.1.prune.recover.epochs=1",
    "measure.min_seconds=0.5",
)


def test_a_real_bert_becomes_tiny(tmp_path: Path):
    words = [word for assignment in SHORTER for word in ("--set", assignment)]
    result = compress_alone("run", PROFILE, *words, folder=tmp_path)
    assert result.returncode in (0, 3), result.stderr
    report = report_of(tmp_path, "bert_to_tiny")
    baseline, last = report["rows"][0], report["rows"][-1]
    assert baseline["parameters"] > 22_000_000
    assert baseline["score"] > 0.9
    assert last["retention"] > 0.9
    assert baseline["size_mb"] / last["size_mb"] > 15
    assert last["disturbed"] or last["speedup"] > 8
    assert last["peak_memory_mb"] < baseline["peak_memory_mb"] / 3
    verified = compress_alone("verify", report["bundle"], folder=tmp_path)
    assert verified.returncode == 0, verified.stderr
