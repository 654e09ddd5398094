"""A disk of a few MB that a test can fill: a tmpfs. Where nothing may be mounted, the test is skipped and says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, left_kb: int = 0) -> Path:
        """Take all of its space but so much, with a file that can be removed again."""
        usage = os.statvfs(self.path)
        file = self.path / "filled"
        with file.open("wb") as stream:
            stream.write(bytes(max(0, usage.f_bavail * usage.f_frsize - left_kb * 1024)))
        return file

    def enlarge(self, size_mb: int) -> None:
        """Give it another size, with what is on it."""
        subprocess.run(["mount", "-o", f"remount,size={size_mb}m", self.path], check=True)


@contextmanager
def small_disk(path: Path, size_mb: int) -> Iterator[SmallDisk]:
    """Mount one; it is gone afterwards."""
    path.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", path],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` here to make a small disk with")
    if made.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
