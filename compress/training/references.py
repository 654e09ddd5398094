"""What a teacher puts out for examples, as a goal or as what outputs are scored against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import Artifact
from compress.core.progress import Progress
from compress.data.splits import Examples
from compress.models.io.checkpoints import load_model
from compress.tasks.base import Task, Truth
from compress.training.prediction import Device, Precision
from compress.training.teachers import cached_signals

Outputs = NDArray[np.float32]


def teacher_outputs(
    teacher: Artifact,
    task: Task,
    examples: Examples,
    *,
    allow_code: bool,
    shared: Path,
    precision: Precision,
    device: Device,
    progress: Progress,
) -> Outputs:
    """What a teacher puts out for examples, float32 (n, labels or width), from the cache where it is there."""
    return cached_signals(
        lambda: load_model(teacher.path, allow_code=allow_code),
        task.encode(examples, teacher.path),
        (),
        shared,
        teacher_digest=teacher.digest,
        precision=precision,
        device=device,
        progress=progress,
    ).outputs


def truth_beside(
    teacher: Artifact | None,
    task: Task,
    examples: Examples,
    *,
    allow_code: bool,
    shared: Path,
    precision: Precision,
    device: Device,
    progress: Progress,
) -> Truth:
    """What outputs on examples are scored against: with the teacher's own outputs where the task compares with them."""
    if teacher is None or not task.needs_reference(examples):
        return Truth.of(examples)
    reference = teacher_outputs(
        teacher,
        task,
        examples,
        allow_code=allow_code,
        shared=shared,
        precision=precision,
        device=device,
        progress=progress,
    )
    return Truth.of(examples, np.asarray(reference))
