"""Options that would be of no effect are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import compress


@pytest.mark.parametrize(
    "command",
    [
        "check a --against b --tolerance-score nan",
        "check a --against b --tolerance-latency nan",
        "check a --against b --tolerance-size NaN",
        "check a --against b --tolerance-memory -nan",
        "cache prune --older-than nan",
    ],
)
def test_what_is_no_number_is_no_amount(command: str, tmp_path: Path) -> None:
    done = compress(*command.split(), folder=tmp_path)
    assert done.returncode == 2
    assert "is not a number" in done.stderr


def test_a_report_is_printed_or_written(tmp_path: Path) -> None:
    done = compress("report", "a", "--json", "--out", "b", folder=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "give one of them" in done.stderr
