"""Options that would be of no effect are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.errors import UsageError
from compress.reporting.render.write import write_report
from tests.jobs import compress
from tests.records import bert_run


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


@pytest.mark.parametrize("out", ["file", "file/report"])
def test_a_report_goes_to_no_file(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="the report's folder cannot be made"):
        write_report(bert_run(), tmp_path / out)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("model", ["nowhere.onnx", "a_run"])
def test_a_model_that_is_not_there_is_told_of_before_what_it_may_be_for(model: str, tmp_path: Path) -> None:
    (tmp_path / "a_run").mkdir()
    done = compress("measure", model, "--data", "data.csv", folder=tmp_path)
    assert done.returncode == 4
    assert (
        f"{'nowhere.onnx' if model == 'nowhere.onnx' else 'a_run/model.onnx'}: file not found" in done.stderr
    )
