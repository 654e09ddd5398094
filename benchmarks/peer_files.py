"""What a peer makes of an FP32 file: its own file in peers/, called in its own environment.

What was made is kept under a digest of all that it was made from, so that a benchmark that was stopped goes on where it
was; what failed is tried again.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from environments import NotInstalledError, python_of
from peers.calling import Quantize

from compress.core.artifacts import ONNX_MODEL
from compress.core.disk.files import sha256_file

FOLDER = Path(__file__).parent
LONGEST_S = 3600
_REASON = 200
_RAISED = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Failed)\b")


class PeerFailedError(Exception):
    """A peer made nothing; the message is its own reason."""


@dataclass(frozen=True)
class Peer:
    """A file in peers/, by its name."""

    name: str

    @property
    def requirements(self) -> tuple[str, ...]:
        """What is installed for it, the tool itself first."""
        found: tuple[str, ...] = importlib.import_module(f"peers.{self.name}").REQUIREMENTS
        return found

    @property
    def settings(self) -> Mapping[str, Quantize]:
        """What it can be asked for."""
        found: Mapping[str, Quantize] = importlib.import_module(f"peers.{self.name}").SETTINGS
        return found

    @property
    def tool(self) -> str:
        """The tool and its version."""
        return " ".join(self.requirements[0].split("=="))

    def python(self, environments: Path) -> Path:
        """Its interpreter, in a folder of environments.

        Raises:
            PeerFailedError: it cannot be installed here.
        """
        try:
            return python_of(environments / self.name, self.requirements)
        except NotInstalledError as error:
            raise PeerFailedError(f"cannot be installed here: {shortened(str(error))}") from error

    def quantized(self, python: Path, setting: str, model: Path, calibration: Path, kept: Path) -> Path:
        """The folder with the file that it makes of `model` in one setting, made anew or found in `kept`.

        Raises:
            PeerFailedError: it made none.
        """
        folder = kept / self._digest(setting, model, calibration)
        if (folder / ONNX_MODEL).is_file():
            return folder
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept, prefix="making-") as work:
            out = Path(work) / "out"
            out.mkdir()
            command = [python, "-P", "-m", f"peers.{self.name}", setting, model, calibration, out]
            environment = {
                **os.environ,
                "PYTHONPATH": str(FOLDER),
                "HF_HUB_OFFLINE": "1",
                "OLIVE_DISABLE_TELEMETRY": "1",
            }
            try:
                result = subprocess.run(
                    [str(word) for word in command],
                    cwd=work,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LONGEST_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise PeerFailedError(f"not done after {LONGEST_S} s") from error
            if result.returncode != 0:
                raise PeerFailedError(reason(result.stderr) or f"it ended with exit code {result.returncode}")
            if not (out / ONNX_MODEL).is_file():
                raise PeerFailedError("it ran and left no model")
            out.rename(folder)
        return folder

    def _digest(self, setting: str, model: Path, calibration: Path) -> str:
        digest = hashlib.sha256(f"{self.name}\n{setting}\n".encode())
        sources = [FOLDER / "peers" / f"{self.name}.py", FOLDER / "peers" / "calling.py"]
        for file in (*sources, model, *sorted(calibration.iterdir())):
            digest.update(sha256_file(file).encode())
        return digest.hexdigest()[:32]


def reason(stderr: str) -> str:
    """The last exception that a program's output names, or else its last line; cut to one line of a table."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return shortened((raised or lines or [""])[-1])


def shortened(text: str) -> str:
    """Text that fits into a cell of a table."""
    plain = " ".join(text.split()).replace("|", "/")
    return plain if len(plain) <= _REASON else plain[: _REASON - 3] + "..."
