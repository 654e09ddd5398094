"""Virtual environments of what this project is compared with: made once each, from packages by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class NotInstalledError(Exception):
    """What cannot be had here, in pip's words."""


def python_of(folder: Path, requirements: Sequence[str], *, shared: bool = False) -> Path:
    """The interpreter of the environment in `folder`, which is made unless it holds these requirements already.

    Args:
        folder: of this environment alone.
        requirements: as pip takes them.
        shared: it sees the packages of this environment too, and gets nothing but what is named.

    Raises:
        NotInstalledError: the requirements cannot be met here.
    """
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = "\n".join(requirements)
    if ready.exists() and ready.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    alone = []
    if shared:
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "shared.pth").write_text(
            "\n".join(path for path in sys.path if "site-packages" in path) + "\n"
        )
        alone = ["--no-deps"]
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *alone]
    result = subprocess.run([*install, *requirements], check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise NotInstalledError(last_error(result.stderr))
    ready.write_text(wanted)
    return python


def last_error(text: str) -> str:
    """The last line of a program's output that names an error, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower()]
    return (named or lines or ["it said nothing"])[-1]
