"""What several of these tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sshd import Sshd, start_sshd
from tests.system.browser import Browser, browser


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    server = start_sshd(tmp_path / "sshd")
    monkeypatch.setenv("PATH", server.path)
    yield server
    server.stop()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the device puts its work: what stays behind can be seen."""
    (tmp_path / "device").mkdir()
    return tmp_path / "device"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened
