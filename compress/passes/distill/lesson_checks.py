"""What teachers and students cannot do together, as far as their files tell before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from compress.passes.distill.spec import DistillSpec
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.pairing import Pairing, Reader, loss_faults
from compress.profile.pass_checks import PassCheck
from compress.profile.schema import Profile
from compress.profile.yaml_lines import Path_
from compress.tasks.table import task_kind


def lesson_faults(check: PassCheck) -> Iterator[Found]:
    """What the assistants and the student cannot learn of those who teach them."""
    assert isinstance(check.spec, DistillSpec)
    lessons = _lessons(check.profile, check.spec, check.model)
    found = (fault for lesson in lessons for fault in _faults(check.spec, lesson, check.files))
    yield from dict.fromkeys(found)


def _lessons(profile: Profile, spec: DistillSpec, model: str | None) -> list[Pairing]:
    """What the assistants learn, one from the other, and last the student.

    Args:
        model: the source of what the first of them is made from, unless it stands ready.
    """
    named = [entry.model or profile.teacher.model for entry in spec.teachers] or [profile.teacher.model]
    teachers = tuple(Reader("teacher", source) for source in named)
    learners = [(f"assistant {number}", one) for number, one in enumerate(spec.assistants, start=1)]
    lessons = []
    for name, student in [*learners, ("student", spec.student)]:
        if not student.is_cut:
            model = student.model
        learner = Reader(name, model)
        lessons.append(Pairing(learner, teachers, task_kind(profile.task).writes))
        teachers = (learner,)
    return lessons


def _faults(spec: DistillSpec, lesson: Pairing, files: ModelFiles) -> Iterator[Found]:
    # A student that follows its own average is compared with nobody else.
    compared = lesson if spec.ema is None else Pairing(lesson.learner, (lesson.learner,), lesson.by_token)
    for index, stage in enumerate(spec.staged):
        place: Path_ = ("stages", index, "losses") if spec.stages else ("losses",)
        for number, why in loss_faults(stage.losses, compared, files):
            yield (*place, number), why
    two = lesson.unlike(files)
    if two is not None and spec.augment is not None:
        yield ("augment",), f"{two}, so texts cannot be augmented for both"
