"""The GPU of this machine as a target, for tests marked `gpu`."""

from __future__ import annotations

from typing import Any

import pytest

from compress.core.errors import TargetError
from compress.profile.schema import TargetSpec
from compress.targets.local import ResolvedTarget, resolve


def gpu_target(runtime: Any = "onnxruntime") -> ResolvedTarget:
    """The GPU; the test is skipped, with what is missing, where the runtime finds none."""
    try:
        return resolve(TargetSpec(device="cuda", runtime=runtime))
    except TargetError as error:
        pytest.skip(str(error))
