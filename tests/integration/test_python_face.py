"""What the command line does, from Python: the same results, as objects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from compress import api
from compress.core.errors import ProfileError, UsageError
from tests.jobs import report_of, write_job

PASSES = [{"quantize": {"bits": 8, "scheme": "dynamic"}}, {"export": {"golden": 4}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a job, which is also the current one."""
    place = tmp_path_factory.mktemp("face")
    teacher = {"model": "teacher", "finetune": {"epochs": 1, "learning_rate": 3e-3, "batch_size": 16}}
    budget = {"size_mb": 0.001}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COMPRESS_CACHE", str(place / "cache"))
        write_job(place / "job", passes=PASSES, teacher=teacher, budget=budget)
        yield place


@pytest.fixture(scope="module")
def profile(folder: Path) -> Path:
    return folder / "job" / "tiny.yaml"


@pytest.fixture(scope="module")
def done(profile: Path) -> api.Run:
    return api.run(profile, quiet=True)


def test_a_run_is_a_frame_a_report_and_a_bundle(done: api.Run, folder: Path) -> None:
    assert done.status == "budget_missed"
    assert list(done.rows["step"]) == ["baseline", "quantize", "export"]
    written = pd.read_csv(folder / "reports" / "tiny" / "rows.csv")
    assert list(written.columns) == list(done.rows.columns)
    assert done.rows["score"].tolist() == pytest.approx(written["score"].tolist())
    assert done.report is not None
    assert done.report.html == folder / "reports" / "tiny" / "report.html"
    assert done.bundle == done.path / "bundle"
    assert report_of(folder)["run"] == done.record.run


def test_a_run_is_loaded_by_its_profile_and_its_report_written_elsewhere(
    done: api.Run, tmp_path: Path
) -> None:
    loaded = api.load_run("tiny")
    assert loaded.record == done.record
    pd.testing.assert_frame_equal(loaded.rows, done.rows)
    assert done.report is not None
    assert api.report(loaded, tmp_path).json.read_bytes() == done.report.json.read_bytes()
    with pytest.raises(UsageError, match="nobody"):
        api.load_run("nobody")


def test_a_notebook_shows_the_table_and_the_plots(done: api.Run) -> None:
    shown = done._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count('"') == 4  # of the two attributes: the page itself is quoted
    assert "&lt;svg" in shown
    assert "quantize" in shown


def test_the_plan_knows_what_is_made(done: api.Run, profile: Path) -> None:
    rows = api.plan(profile)
    assert {row.state for row in rows} == {"cached"}
    further = api.plan(api.load_profile(profile, ["seed=7"]))
    assert "to do" in {row.state for row in further}
    with pytest.raises(ValueError, match="load_profile"):
        api.plan(api.load_profile(profile), ["seed=7"])


def test_validating_tells_faults_instead_of_raising_them(profile: Path) -> None:
    assert api.validate(profile).ok
    found = api.validate(profile, ["data.label_column=none"])
    assert not found.ok
    assert any("none" in fault.message for fault in found.faults)
    with pytest.raises(ProfileError):
        api.load_profile(profile, ["seed=-1"])


def test_a_bundle_is_verified_measured_and_its_model_loaded(done: api.Run, folder: Path) -> None:
    assert done.bundle is not None
    assert api.verify(done.bundle).ok
    rows = []
    measured = api.measure(
        done.bundle,
        folder / "job" / "data.csv",
        targets=[{"threads": 1}],
        assignments=["measure.min_seconds=0.05", "measure.min_rounds=4", "measure.patience_s=0"],
        quiet=True,
        on_row=lambda run, row: rows.append(row.step),
    )
    assert measured.status == "ok"
    assert rows == list(measured.rows["step"])
    assert measured.rows["size_mb"].iloc[-1] == pytest.approx(done.rows["size_mb"].iloc[-1])
    model = api.load_model(folder / "job" / "teacher")
    assert isinstance(model, torch.nn.Module)


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "{'pydantic', 'pandas', 'numpy', 'rich', 'torch', 'click'}"
    code = f"import sys, compress; print(*sorted({heavy} & set(sys.modules)), compress.run, compress.verify)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("<function run")
