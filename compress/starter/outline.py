"""The task-specific parts of a starter profile, provided by the task's own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from compress.core.plugins import named
from compress.starter.detection import Detected
from compress.tasks.table import task_kind

Lines = Callable[[Detected], Iterator[str]]


@dataclass(frozen=True)
class Outline:
    """The parts of a starter profile.

    Attributes:
        data: the beginning of the section `data`.
        data_keys: yields the keys below it.
        teacher: the beginning of the section `teacher`.
        teacher_keys: yields the keys below it.
        passes: yields the passes before quantization.
        retention: the budget's minimum retention, as text.
    """

    data: str
    data_keys: Lines
    teacher: str
    teacher_keys: Lines
    passes: Lines
    retention: str


def outline_of(task: str) -> Outline:
    """Return the outline of a task."""
    return cast(Outline, named(task_kind(task).starter))
