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
from compress.runtimes.launching import follow_parent, set_variables

CONFINE = TEMPLATES / "confine.py"
_PYTHON = (sys.executable, "-I", "-B")
_PROBE_S = 30
_SAID = 64 * 1024
"""Number of bytes of the code's output that are read, from the end."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "SYSTEMROOT", "TEMP", "TMP")
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
def confinement() -> Sandbox:
    """Return the first sandbox that works here: bubblewrap if installed, Linux namespaces, or none."""
    found = shutil.which("bwrap")
    tried = [Sandbox("bubblewrap", (found, *_BUBBLEWRAP))] if found is not None else []
    if sys.platform == "linux":
        tried.append(Sandbox("namespaces", (*_PYTHON, "-S", str(CONFINE))))
    return next((one for one in tried if _works(one)), Sandbox(None, ()))


def run_python(script: Sequence[str], held_by: Sandbox, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a Python script with arguments, isolated from the user's settings, in a sandbox.

    Raises:
        subprocess.TimeoutExpired: it did not finish in time.
    """
    argv = [*held_by.prefix, *_PYTHON, *script]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(
            follow_parent(argv),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=timeout_s,
            check=False,
        )
        said = [_end_of(stream) for stream in (out, err)]
    return subprocess.CompletedProcess(argv, done.returncode, *said)


def _works(one: Sandbox) -> bool:
    probe = [*one.prefix, *_PYTHON, "-S", "-c", ""]
    try:
        done = subprocess.run(
            probe,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _environment() -> Mapping[str, str]:
    """Return a minimal environment that only locates programs and libraries: no tokens, no home folder."""
    return {**{name: os.environ[name] for name in _KEPT if name in os.environ}, **set_variables(1)}


def _end_of(stream: IO[bytes]) -> str:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - _SAID))
    return stream.read().decode(errors="replace")
