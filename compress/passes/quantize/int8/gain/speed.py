"""Warnings where INT8 will not make a model faster, before hours of training are spent on it."""

from __future__ import annotations

from collections.abc import Sequence

from compress.passes.quantize.int8.spec import Int8Spec
from compress.profile.schema import Profile
from compress.targets.local import ResolvedTarget
from compress.tasks.table import task_kind

SHAPE = (384, 1536)
"""Inputs and outputs of the timed product, typical of a small encoder; the pass itself times the model's own shapes."""
ROWS = 64
"""Rows of the timed product: tokens of an example."""


def integer_warnings(profile: Profile, targets: Sequence[ResolvedTarget]) -> list[str]:
    """Return one warning for each machine on which the requested INT8 quantization will be no faster than FP32.

    Targets are timed for a fraction of a second each; for image models (convolutions) the CPU flags decide.

    Args:
        targets: all targets of the profile.

    Raises:
        TargetError: a device is lost.
    """
    if not any(isinstance(spec, Int8Spec) for spec in profile.specs):
        return []
    # Imported here: profiles without INT8 do not need the module.
    from compress.passes.quantize.int8.gain.probe import Probe, probe, warning

    is_image_task = task_kind(profile.task).items == "image"
    messages: dict[str, None] = {}
    timed: dict[tuple[object, ...], Probe] = {}
    for target in targets:
        if target.spec.runtime != "onnxruntime" or target.spec.device == "cuda":
            continue
        if is_image_task:
            result = Probe(tuple(target.description["cpu"]["flags"]), ROWS, ())
        else:
            # Targets may differ in irrelevant settings, such as batch sizes or a memory limit.
            same = (target.spec.device, target.spec.threads, target.spec.cores)
            result = timed[same] = timed.get(same) or probe({SHAPE: 1}, ROWS, target)
        why = warning(result, machine=target.machine_name, shapes="a typical shape")
        if why is not None:
            messages.setdefault(why)
    return list(messages)
