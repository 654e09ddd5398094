"""What `compress init` writes of a task, as the task's own folder says it."""

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
    """The parts of a starter profile: the comments that open `data` and `teacher`, the keys below them, the passes
    before quantizing, and the retention that its budget asks for."""

    data: str
    data_keys: Lines
    teacher: str
    teacher_keys: Lines
    passes: Lines
    retention: str


def outline_of(task: str) -> Outline:
    """The outline of a task."""
    return cast(Outline, named(task_kind(task).starter))
