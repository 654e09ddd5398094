"""What a step computes on a device stays there; see tests/card_cases.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parents[1] / "card_cases.py"


@pytest.mark.slow
def test_steps_keep_together_what_they_compute_on_a_device() -> None:
    """In a process of its own: torch counts the devices there are when it first computes a gradient."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, cwd=CASES.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
