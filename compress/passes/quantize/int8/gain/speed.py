"""Says where 8 bits will not make a model faster, before hours of training go into it."""

from __future__ import annotations

from collections.abc import Sequence

from compress.passes.quantize.int8.spec import Int8Spec
from compress.profile.schema import Profile
from compress.targets.local import ResolvedTarget
from compress.tasks.table import task_kind

SHAPE = (384, 1536)
"""Inputs and outputs of the product that is timed here: of a small encoder. The pass times the model's own."""
ROWS = 64
"""Its rows: tokens of an example."""


def integer_warnings(profile: Profile, targets: Sequence[ResolvedTarget]) -> list[str]:
    """Where the 8 bits that a pass asks for will be no faster than FP32; one line a machine.

    Targets are timed, a fraction of a second each; of what images run on (convolutions), the instructions decide.

    Args:
        targets: all of the profile's.

    Raises:
        TargetError: a device is lost.
    """
    if not any(isinstance(spec, Int8Spec) for spec in profile.specs):
        return []
    # Imported here: profiles without 8 bits need nothing of the pass.
    from compress.passes.quantize.int8.gain.probe import Probe, probe, warning

    images = task_kind(profile.task).items == "image"
    told: dict[str, None] = {}
    timed: dict[tuple[object, ...], Probe] = {}
    for target in targets:
        if target.spec.runtime != "onnxruntime" or target.spec.device == "cuda":
            continue
        if images:
            found = Probe(tuple(target.description["cpu"]["flags"]), ROWS, ())
        else:
            # Two targets may differ in what has no part in this: batch sizes, a limit of memory.
            same = (target.spec.device, target.spec.threads, target.spec.cores)
            found = timed[same] = timed.get(same) or probe({SHAPE: 1}, ROWS, target)
        why = warning(found, machine=target.place, shapes="a typical shape")
        if why is not None:
            told.setdefault(why)
    return list(told)
