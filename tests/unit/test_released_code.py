"""The list of the code that bundles are made with is true: `verify` runs nothing else without permission."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from compress.bundles import released

ROOT = Path(__file__).parents[2]
ROOMS = ("bundles", "passes/export")
"""Where the templates are, and where they were."""
HINT = "run `python -m compress.bundles.released` and commit the list"


@pytest.mark.parametrize("name", ["runner.py", "predict.py"])
def test_what_bundles_get_now_stands_in_the_list(name: str) -> None:
    missing = set(released.current_digests()[name]) - set(released.released_digests()[name])
    assert not missing, f"{name} was changed: {HINT}"


def test_other_code_and_another_name_are_not_ours() -> None:
    (digest,) = released.current_digests()["runner.py"]
    assert released.is_released("runner.py", digest)
    assert not released.is_released("predict.py", digest)
    assert not released.is_released("runner.py", hashlib.sha256(b"print()").hexdigest())


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no history here")
def test_nothing_stands_in_the_list_that_was_never_ours() -> None:
    """Each digest is that of a version in the history, or of the working tree."""
    files = [
        "compress/runtimes/runner.py",
        *(f"compress/{room}/templates/{n}.py" for room in ROOMS for n in ("classify", "embed")),
        *(f"compress/tasks/causal_lm/{n}.py" for n in ("predict", "predictor")),
        "compress/runtimes/decoding.py",
    ]
    ours = {digest for digests in released.current_digests().values() for digest in digests}
    for file in files:
        log = ["git", "log", "--format=%H", "HEAD", "--", file]
        for commit in subprocess.run(
            log, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split():
            shown = subprocess.run(
                ["git", "show", f"{commit}:{file}"], cwd=ROOT, capture_output=True, check=False
            )
            ours.add(hashlib.sha256(shown.stdout).hexdigest())
    assert {digest for digests in released.released_digests().values() for digest in digests} <= ours
