"""What several of these tests stand on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.bundles.web.packages import RUNTIME, TOKENIZERS, pinned_package


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """node_modules/onnxruntime-web with empty files of the right names, and neither node nor npm."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in (RUNTIME, TOKENIZERS):
        folder = tmp_path / "node_modules" / name
        package = pinned_package(name)
        for file in package.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(file)
        (folder / "package.json").write_text(json.dumps({"version": package.version}))
    return tmp_path / "node_modules" / RUNTIME
