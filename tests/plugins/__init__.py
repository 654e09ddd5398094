"""Distributions that add to the package as any other would: small ones, installed into a folder without pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def install(site: Path, *names: str) -> Path:
    """Put distributions of this folder into `site`, as an installer would: their package, and what it says of it."""
    for name in names:
        project = tomllib.loads((HERE / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        shutil.copytree(HERE / name / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        describe(site, project["name"], project["version"], project["entry-points"])
    return site


def describe(site: Path, name: str, version: str, points: dict[str, dict[str, str]]) -> None:
    """Write what tells Python that a distribution is installed in `site`, with its entry points by group."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = (
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in points.items()
    )
    (info / "entry_points.txt").write_text("\n".join(lines))


def python(site: Path, *arguments: str, folder: Path | None = None, code: int = 0) -> str:
    """What a Python prints in which all of `site` is installed; of one that fails what it says of it.

    Args:
        folder: where it runs and keeps its cache; unset: `site`.
        code: the exit code that is expected.
    """
    folder = folder or site
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(site), str(REPOSITORY))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COMPRESS_CACHE": str(folder / "cache"),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def compress(site: Path, *words: str | Path, folder: Path | None = None, code: int = 0) -> str:
    """The same of the command."""
    return python(site, "-m", "compress", *map(str, words), folder=folder, code=code)
