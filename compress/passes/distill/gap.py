"""The capacity gap between student and teacher, for a warning before training starts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compress.core.terminal.progress import Progress
from compress.models.io.checkpoints import count_parameters
from compress.passes.distill.examples import TeacherRef

WARN_RATIO = 50
"""Ratio of teacher to student parameters from which on a warning is given (Mirzadeh et al. 2020)."""


def parameter_ratio(teachers: Sequence[TeacherRef], parameters: int) -> float:
    """Return the parameters of the largest teacher divided by those of the student."""
    return max(int(teacher.artifact.facts["parameters"]) for teacher in teachers) / parameters


def gap_warnings(teachers: Sequence[TeacherRef], parameters: int) -> list[str]:
    """Return a warning if the student has far fewer parameters than its teachers, else an empty list.

    Args:
        teachers: whose outputs the student learns; empty if it learns only from labels or its own average.
        parameters: number of the student's parameters.
    """
    ratio = parameter_ratio(teachers, parameters) if teachers else 0
    if ratio < WARN_RATIO:
        return []
    return [
        f"the student has {ratio:.0f} times fewer parameters than its teacher; a gap above {WARN_RATIO} often "
        "costs accuracy: `assistants` of intermediate size may help (Mirzadeh et al. 2020)"
    ]


def warn_of_gap(teachers: Sequence[TeacherRef], student: nn.Module, progress: Progress) -> None:
    """Print the warning for an untrained student."""
    for warning in gap_warnings(teachers, count_parameters(student)):
        progress.say(f"warning: {warning}")
