"""Distil, prune, quantize, export and measure a trained model on the device it will run on.

What the command line does, from Python:

    run = compress.run("profiles/bert_to_tiny.yaml")
    run.rows[["step", "score", "speedup", "size_mb"]]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from compress.core.telemetry import TELEMETRY_OFF

# Here, for nothing that has telemetry is imported before.
os.environ.update(TELEMETRY_OFF)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compress.api import (
        Run,
        load_model,
        load_profile,
        load_run,
        measure,
        plan,
        report,
        run,
        validate,
        verify,
    )

__all__ = [
    "Run",
    "load_model",
    "load_profile",
    "load_run",
    "measure",
    "plan",
    "report",
    "run",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    # When it is asked for: the command line starts without.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compress import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
