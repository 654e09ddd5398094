"""The task-specific parts of a starter profile, provided by the task's own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from compress.core.plugins import import_object
from compress.starter.detection import Detected
from compress.tasks.table import task_kind

LineGenerator = Callable[[Detected], Iterator[str]]


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
    data_keys: LineGenerator
    teacher: str
    teacher_keys: LineGenerator
    passes: LineGenerator
    retention: str


def load_outline(task: str) -> Outline:
    """Return the outline of a task."""
    return cast(Outline, import_object(task_kind(task).starter))
