"""What the run ran on, for its record."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from compress import __version__
from compress.core.numerics import Numerics
from compress.targets.local import ResolvedTarget

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "torch-pruning",
    "optimum",
    "numpy",
    "pandas",
)


def describe_environment(numerics: Numerics, targets: tuple[ResolvedTarget, ...]) -> dict[str, Any]:
    """Machine, libraries and targets as plain JSON values."""
    return {
        "compress": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "training": {"device": numerics.device, "threads": numerics.threads, "bf16": numerics.bf16},
        "libraries": library_versions(),
        "targets": {target.label: dict(target.description) for target in targets},
    }


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries whose results a run depends on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def processor_name() -> str:
    """The processor's name as Linux reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"
