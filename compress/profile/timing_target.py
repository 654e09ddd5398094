"""The target on which passes time their candidates."""

from __future__ import annotations

from collections.abc import Sequence

from compress.profile.schema import TargetSpec


def timing_target(targets: Sequence[TargetSpec]) -> TargetSpec:
    """Return the first target with onnxruntime; if all use torch, this machine's CPU with the first one's threads."""
    onnx_targets = (target for target in targets if target.runtime == "onnxruntime")
    return next(onnx_targets, TargetSpec(threads=targets[0].threads))
