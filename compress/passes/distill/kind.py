"""Distillation as the rest of the house knows it.

A distillation takes its inputs by role: `model` is what the student is made from, `teacher` who teaches it,
`original` the teacher of the profile, `teacher.N` further teachers, `student` a student that stands ready. For the
control of a student that learns what its teacher writes, `taught` is that student. Assistants are distillations
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.passes.contract import TORCH, PassKind, PassSpec, PlanBuilder, StepKind
from compress.passes.distill.spec import DistillSpec


def _plan(plan: PlanBuilder, name: str, spec: PassSpec, current: str, teacher: str) -> str:
    """The step of the student, those of its control, its further teachers and its assistants."""
    assert isinstance(spec, DistillSpec)
    form = spec.produces(plan.form(current))
    asked, spec = spec, spec.model_copy(update={"control": False, "assistants": ()})
    # What stands beside the student is another teaching where `control` names one.
    other = asked.control if isinstance(asked.control, str) else False
    inputs = {"model": current, "teacher": teacher, "original": teacher}
    inputs.update(_further_teachers(plan, name, spec, teacher))
    if asked.control:
        started = {**inputs, **_ready_student(plan, name, spec)}
        if spec.sequence is not None:
            # How much the teacher wrote says how long the control is trained.
            started["taught"] = plan.add(name, "distill", spec, {**started}, form)
        beside = spec.model_copy(update={"control": other})
        control = plan.add(f"{name}.control", "distill.control", beside, started, form)
        plan.row(control, "control", control)
    for number, assistant in enumerate(asked.assistants, start=1):
        # Each is made from the one before it and taught by it; generations are for the student alone.
        own = spec.model_copy(update={"student": assistant, "generations": 1, "keep": "last"})
        taught = {**inputs, **_ready_student(plan, f"{name}.assistant{number}", own)}
        step = plan.add(f"{name}.assistant{number}", "distill", own, taught, form)
        inputs = {"model": step, "teacher": step, "original": teacher}
        spec = spec.model_copy(update={"teachers": ()})
    inputs.update(_ready_student(plan, name, spec))
    step = plan.add(name, "distill", spec, inputs, form)
    plan.row(name, "step", step)
    return step


def _further_teachers(plan: PlanBuilder, name: str, spec: DistillSpec, teacher: str) -> dict[str, str]:
    """The steps of `teachers` by role: `teacher.1` for the first entry, and so on."""
    roles = {}
    for number, entry in enumerate(spec.teachers, start=1):
        step = teacher
        if entry.model is not None:
            step = plan.taught(
                f"{name}.teacher{number}", entry.model, entry.revision, entry.labels, entry.finetune
            )
        roles[f"teacher.{number}"] = step
    return roles


def _ready_student(plan: PlanBuilder, name: str, spec: DistillSpec) -> dict[str, str]:
    """The step that fetches a student that stands ready; none for one made from the teacher."""
    student = spec.student
    if student.model is None:
        return {}
    return {"student": plan.fetched(f"{name}.student", student.model, student.revision)}


TAUGHT = ("shown", "teachers", "kept", "stages", "assistants", "generations", "data_free", "warnings")
"""The facts of a distillation that the table of teaching shows."""
WRITTEN = "written"
"""The fact that tells of what a teacher wrote."""
GENERATED = "generated"
"""The fact that tells of texts that a model wrote for the teacher to label."""
HELD_OUT = "held_out"
"""The fact that tells how well a student foretells the answers of pairs that are held out."""
OWN_TEXTS = "own_texts"
"""The fact of a stage that tells of what the student wrote."""


def _roughly(body: Mapping[str, Any]) -> PassSpec:
    """Which generation is kept decides whether one model follows."""
    return DistillSpec.model_construct(**{key: body[key] for key in ("keep",) if key in body})


DISTILL = PassKind(
    spec=DistillSpec,
    roughly=_roughly,
    steps={
        "distill": StepKind(
            "compress.passes.distill.step:run",
            TORCH,
            trains=True,
            reads_unlabeled=True,
            open_form=(),
            keeps="student",
        ),
        "distill.control": StepKind(
            "compress.passes.distill.step:run_control", TORCH, trains=True, reads_unlabeled=True
        ),
    },
    inputs=("model", "teacher"),
    plan=_plan,
    faults="compress.passes.distill.checks:faults",
    warnings="compress.passes.distill.checks:warnings",
    told=(*TAUGHT, WRITTEN, HELD_OUT, GENERATED),
    sections=(
        "compress.passes.distill.sections.written:written",
        "compress.passes.distill.sections.own_texts:own_texts",
        "compress.passes.distill.sections.generated:generated",
    ),
    taught="compress.passes.distill.sections.teaching:taught",
)
