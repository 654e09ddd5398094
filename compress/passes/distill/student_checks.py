"""Checks of students and additional teachers: keys that are invalid or would have no effect."""

from __future__ import annotations

from collections.abc import Iterator

from compress.passes.distill.spec import DistillSpec
from compress.profile.combination_checks import KeyFault, input_kind
from compress.profile.schema import Profile
from compress.profile.specs.student import StudentSpec
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import task_kind

_CUT_KEYS = ("choose", "basis")
_SHAPE_KEYS = ("layers", "hidden_size", "heads", "intermediate_size", "from_", *_CUT_KEYS)
"""Keys of a student that is built; `_CUT_KEYS` are those of one cut from its teacher."""


def student_faults(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    """Yield the keys of students and additional teachers that are impossible or would have no effect."""
    if input_kind(profile) == "images" and spec.vocabulary != "keep":
        yield ("vocabulary",), "images have no vocabulary"
    students: list[tuple[KeyPath, StudentSpec]] = [(("student",), spec.student)]
    students += [(("assistants", index), one) for index, one in enumerate(spec.assistants)]
    for key_path, student in students:
        if student.decoder is not None and not task_kind(profile.task).generates:
            yield (
                (*key_path, "architecture"),
                f"{student.architecture} generates text, and {profile.task} does not",
            )
        elif student.decoder is None and student.architecture is not None and input_kind(profile) != "images":
            yield (*key_path, "architecture"), f"{student.architecture} reads images, not texts"
        if spec.data_free is not None and spec.sequence is None and student.choose == "similarity":
            yield (*key_path, "choose"), "data_free provides no examples to measure layer similarity on"
        if (
            student.is_cut_from_teacher
            and student.basis == "embeddings"
            and task_kind(profile.task).generates
        ):
            yield (
                (*key_path, "basis"),
                "a student cut out of a decoder keeps the dimensions that are largest on training examples: leave "
                "`basis` out",
            )
        if student.patch_size is not None and student.architecture is None:
            yield (*key_path, "patch_size"), "only a student with an `architecture` has patches to size"
        if student.model is not None and spec.vocabulary_trimming is not None:
            yield (
                ("vocabulary",),
                "a ready-made student keeps its own tokenizer; leave `vocabulary` out",
            )
        yield from (((*key_path, key), why) for key, why in _unused_keys(student))
    for number, teacher in enumerate(spec.teachers):
        for name in ("revision", "labels", "finetune"):
            if teacher.model is None and getattr(teacher, name) is not None:
                why = "without `model` this is the profile's teacher, which `teacher` describes: leave it out"
                yield ("teachers", number, name), why


def _unused_keys(student: StudentSpec) -> Iterator[tuple[str, str]]:
    """Yield the keys of a student that are set but would have no effect."""
    unused: tuple[str, ...]
    if student.model is not None:
        unused, why = (
            _SHAPE_KEYS,
            "a ready-made student (`model`) has its own shape and weights: leave it out",
        )
    elif student.architecture is not None:
        unused, why = (
            _CUT_KEYS,
            "a fresh student (`architecture`) takes nothing from its teacher: leave it out",
        )
    else:
        unused = () if isinstance(student.layers, int) else ("choose",)
        why = "`layers` lists the layers, so there are none to choose: leave it out"
    for name in unused:
        if name in student.model_fields_set and getattr(student, name) is not None:
            yield name.rstrip("_"), why
    if student.revision is not None and student.model is None:
        yield "revision", "only for a ready-made student (`model`): leave it out"
