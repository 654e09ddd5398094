"""How much smaller a student is than who teaches it: known, and said, before any of its training is paid for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compress.core.terminal.progress import Progress
from compress.models.io.checkpoints import count_parameters
from compress.passes.distill.examples import TeacherAt

FAR_SMALLER = 50
"""A student with so many times fewer parameters than its teacher gets a warning (Mirzadeh et al. 2020)."""


def times_fewer(teachers: Sequence[TeacherAt], parameters: int) -> float:
    """The parameters of the largest teacher over those of a student."""
    return max(int(teacher.artifact.facts["parameters"]) for teacher in teachers) / parameters


def gap_warnings(teachers: Sequence[TeacherAt], parameters: int) -> list[str]:
    """A warning where the student has very much fewer parameters than its teachers, else nothing.

    Args:
        teachers: whose answers the student learns from; none where it has labels or its own average alone.
        parameters: of the student.
    """
    ratio = times_fewer(teachers, parameters) if teachers else 0
    if ratio < FAR_SMALLER:
        return []
    return [
        f"the student has {ratio:.0f} times fewer parameters than its teacher; a gap above {FAR_SMALLER} often "
        "costs accuracy: `assistants` of intermediate size may help (Mirzadeh et al. 2020)"
    ]


def warn_of_gap(teachers: Sequence[TeacherAt], student: nn.Module, progress: Progress) -> None:
    """Say it of a student that is not trained yet."""
    for warning in gap_warnings(teachers, count_parameters(student)):
        progress.say(f"warning: {warning}")
