"""`compress measure --profile`: the sections of a profile mean there what they mean in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.profile.measure_request import build_request, measure_sections
from compress.profile.schema import Profile

JOB = {
    "name": "job",
    "task": "text-classification",
    "seed": 3,
    "data": {"path": "data.csv", "splits": {"test": 0.3}},
    "teacher": {"model": "teacher"},
    "passes": [{"quantize": {}}],
    "measure": {"examples": 7},
}


@pytest.mark.parametrize(
    "targets",
    [
        {},
        {"targets": [{"threads": 2, "batch_sizes": [1, 8]}]},
        {"targets": [{"device": "ssh://pi@board", "folder": "/data"}]},
    ],
)
def test_a_profile_gives_its_sections(tmp_path: Path, targets: dict[str, Any]) -> None:
    profile = Profile.model_validate({**JOB, **targets})
    made = build_request({"name": "one", **measure_sections(profile)}, (), (), tmp_path)
    for section in ("task", "seed", "data", "targets", "measure"):
        assert getattr(made, section) == getattr(profile, section)
