"""Description of the environment of a run, for its record."""

from __future__ import annotations

import os
import platform
from typing import Any

from compress import __version__
from compress.core.numerics import Numerics, local_processor
from compress.core.versions import installed_version
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
    """Return machine, libraries and targets as JSON values."""
    return {
        "compress": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": local_processor().get("model name") or platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "training": {"device": numerics.device, "threads": numerics.threads, "bf16": numerics.bf16},
        "libraries": {
            name: version for name in LIBRARIES if (version := installed_version(name)) is not None
        },
        "targets": {target.label: dict(target.description) for target in targets},
    }
