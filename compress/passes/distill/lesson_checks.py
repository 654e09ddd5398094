"""Checks of teacher-student pairs that need only the models' files."""

from __future__ import annotations

from collections.abc import Iterator

from compress.passes.distill.spec import DistillSpec, loss_fault, losses_path
from compress.profile.combination_checks import KeyFault
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.pairing import PairedModel, Pairing, loss_faults
from compress.profile.pass_checks import PassCheck
from compress.profile.schema import Profile
from compress.tasks.table import task_kind


def pairing_faults(check: PassCheck) -> Iterator[KeyFault]:
    """Yield the losses that assistants and student cannot use with their teachers."""
    assert isinstance(check.spec, DistillSpec)
    pairings = _pairings(check.profile, check.spec, check.model)
    found = (fault for lesson in pairings for fault in _pairing_faults(check.spec, lesson, check.files))
    yield from dict.fromkeys(found)


def _pairings(profile: Profile, spec: DistillSpec, model: str | None) -> list[Pairing]:
    """Return the pairings of learners and teachers: assistants in order, then the student.

    Args:
        model: source of the model that the first of them is derived from, unless it is ready-made.
    """
    named = [entry.model or profile.teacher.model for entry in spec.teachers] or [profile.teacher.model]
    teachers = tuple(PairedModel("teacher", source) for source in named)
    learners = [(f"assistant {number}", one) for number, one in enumerate(spec.assistants, start=1)]
    pairings = []
    for name, student in [*learners, ("student", spec.student)]:
        if not student.is_cut_from_teacher:
            model = student.model
        learner = PairedModel(name, model)
        pairings.append(Pairing(learner, teachers, task_kind(profile.task).generates))
        teachers = (learner,)
    return pairings


def _pairing_faults(spec: DistillSpec, pairing: Pairing, files: ModelFiles) -> Iterator[KeyFault]:
    # A student that follows its own average (`ema`) is compared only with itself.
    compared = pairing if spec.ema is None else Pairing(pairing.student, (pairing.student,), pairing.by_token)
    for index, stage in enumerate(spec.effective_stages):
        for number, why in loss_faults(stage.losses, compared, files):
            yield loss_fault(losses_path(spec, index), number, stage.losses[number], why)
    mismatch = pairing.tokenizer_mismatch(files)
    if mismatch is not None and spec.augment is not None:
        yield ("augment",), f"{mismatch}, so texts cannot be augmented for both"
