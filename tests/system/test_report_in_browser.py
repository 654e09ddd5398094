"""The report in a real browser: one file, laid out, complete on a wide and on a narrow screen."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from compress.reporting.render.write import write_report
from tests.records import bert_run
from tests.system.browser import FLAGS

pytestmark = pytest.mark.system


def browse(page: Path, profile: Path, *flags: str) -> str:
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_page_shows_every_step(tmp_path: Path):
    run = bert_run()
    page = write_report(run, tmp_path / "report").html
    shown = browse(page, tmp_path / "browser", "--dump-dom")
    for step in run.steps:
        assert step.step in shown
    assert shown.count("<svg") >= 3


@pytest.mark.parametrize("width", [420, 1200])
def test_the_page_is_drawn(tmp_path: Path, width: int):
    page = write_report(bert_run(), tmp_path / "report").html
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "browser", f"--screenshot={picture}", f"--window-size={width},2000")
    data = picture.read_bytes()
    # Width and height stand at a fixed place in a PNG; an empty page compresses to almost nothing.
    assert struct.unpack(">II", data[16:24])[1] == 2000
    assert len(data) > 50_000
