"""Checks of teacher-student pairs that need only the models' files."""

from __future__ import annotations

from collections.abc import Iterator

from compress.passes.distill.spec import DistillSpec, loss_fault, losses_place
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.pairing import PairedModel, Pairing, loss_faults
from compress.profile.pass_checks import PassCheck
from compress.profile.schema import Profile
from compress.tasks.table import task_kind


def lesson_faults(check: PassCheck) -> Iterator[Found]:
    """Yield the losses that assistants and student cannot use with their teachers."""
    assert isinstance(check.spec, DistillSpec)
    lessons = _lessons(check.profile, check.spec, check.model)
    found = (fault for lesson in lessons for fault in _faults(check.spec, lesson, check.files))
    yield from dict.fromkeys(found)


def _lessons(profile: Profile, spec: DistillSpec, model: str | None) -> list[Pairing]:
    """Return the pairings of learners and teachers: assistants in order, then the student.

    Args:
        model: source of the model that the first of them is derived from, unless it is ready-made.
    """
    named = [entry.model or profile.teacher.model for entry in spec.teachers] or [profile.teacher.model]
    teachers = tuple(PairedModel("teacher", source) for source in named)
    learners = [(f"assistant {number}", one) for number, one in enumerate(spec.assistants, start=1)]
    lessons = []
    for name, student in [*learners, ("student", spec.student)]:
        if not student.is_cut:
            model = student.model
        learner = PairedModel(name, model)
        lessons.append(Pairing(learner, teachers, task_kind(profile.task).writes))
        teachers = (learner,)
    return lessons


def _faults(spec: DistillSpec, lesson: Pairing, files: ModelFiles) -> Iterator[Found]:
    # A student that follows its own average (`ema`) is compared only with itself.
    compared = lesson if spec.ema is None else Pairing(lesson.learner, (lesson.learner,), lesson.by_token)
    for index, stage in enumerate(spec.staged):
        for number, why in loss_faults(stage.losses, compared, files):
            yield loss_fault(losses_place(spec, index), number, stage.losses[number], why)
    two = lesson.unlike(files)
    if two is not None and spec.augment is not None:
        yield ("augment",), f"{two}, so texts cannot be augmented for both"
