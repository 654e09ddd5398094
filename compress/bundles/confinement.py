"""Run a bundle's code without network or write access, as far as the system supports it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from compress.bundles.layout import TEMPLATES
from compress.runtimes.launching import child_variables, follow_parent

CONFINE_SCRIPT = TEMPLATES / "confine.py"
_PYTHON = (sys.executable, "-I", "-B")
_PROBE_S = 30
_OUTPUT_BYTES = 64 * 1024
"""Number of bytes of the code's output that are read, from the end."""
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "SYSTEMROOT", "TEMP", "TMP")
_BUBBLEWRAP = (
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
    *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--"),
)


@dataclass(frozen=True)
class Sandbox:
    """A sandbox: `name` is bubblewrap, namespaces, or None without one; `prefix` precedes the code's command."""

    name: str | None
    prefix: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """Warning for the reader if there is no sandbox."""
        if self.name is not None:
            return None
        return (
            "the golden examples ran with access to this user's network and files: this system has neither bubblewrap "
            "nor user namespaces"
        )


@functools.cache
def find_sandbox() -> Sandbox:
    """Return the first sandbox that works here: bubblewrap if installed, Linux namespaces, or none."""
    bwrap = shutil.which("bwrap")
    candidates = [Sandbox("bubblewrap", (bwrap, *_BUBBLEWRAP))] if bwrap is not None else []
    if sys.platform == "linux":
        candidates.append(Sandbox("namespaces", (*_PYTHON, "-S", str(CONFINE_SCRIPT))))
    return next((candidate for candidate in candidates if _works(candidate)), Sandbox(None, ()))


def run_python(script: Sequence[str], sandbox: Sandbox, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a Python script with arguments, isolated from the user's settings, in a sandbox.

    Raises:
        subprocess.TimeoutExpired: it did not finish in time.
    """
    argv = [*sandbox.prefix, *_PYTHON, *script]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.run(
            follow_parent(argv),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=timeout_s,
            check=False,
        )
        outputs = [_read_tail(stream) for stream in (out, err)]
    return subprocess.CompletedProcess(argv, process.returncode, *outputs)


def _works(sandbox: Sandbox) -> bool:
    probe = [*sandbox.prefix, *_PYTHON, "-S", "-c", ""]
    try:
        process = subprocess.run(
            probe,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return process.returncode == 0


def _environment() -> Mapping[str, str]:
    """Return a minimal environment that only locates programs and libraries: no tokens, no home folder."""
    return {
        **{name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        **child_variables(1),
    }


def _read_tail(stream: IO[bytes]) -> str:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
    return stream.read().decode(errors="replace")
