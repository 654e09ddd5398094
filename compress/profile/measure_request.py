"""What `compress measure` is asked for beside the model: the sections of a profile that measuring needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.core.spec import Spec
from compress.profile.schema import MeasureSpec, TargetSpec, TaskData, TaskName


class MeasureRequest(Spec):
    """Task, data, targets and how to measure; each section means what it means in a profile."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the run and the folder of its report."""
    task: TaskName
    """The kind of problem."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the splits and the choice of latency inputs."""
    data: TaskData
    """Where the examples come from."""
    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1)] = (TargetSpec(),)
    """Where the model is measured."""
    measure: MeasureSpec = MeasureSpec()
    """How long and on what to measure."""
