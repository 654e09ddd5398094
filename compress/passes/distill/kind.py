"""Registration of the distillation pass.

Inputs of a distillation step by role: `model` is what the student is derived from, `teacher` its teacher,
`original` the profile's teacher, `teacher.N` additional teachers, `student` a ready-made student. The control
of a student that learns its teacher's texts has that student as `taught`. Assistants are distillations
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.passes.contract import TORCH, PassKind, PassSpec, PlanBuilder, StepKind
from compress.passes.distill.spec import DistillSpec


def _plan(plan: PlanBuilder, name: str, spec: PassSpec, current: str, teacher: str) -> str:
    """Add the steps of the student, its control, its additional teachers and its assistants; return the student's."""
    assert isinstance(spec, DistillSpec)
    form = spec.produces(plan.form(current))
    requested, spec = spec, spec.model_copy(update={"control": False, "assistants": ()})
    # A named `control` is another way of training; otherwise the control has no teacher.
    control_setting = requested.control if isinstance(requested.control, str) else False
    inputs = {"model": current, "teacher": teacher, "original": teacher}
    inputs.update(_additional_teachers(plan, name, spec, teacher))
    if requested.control:
        control_inputs = {**inputs, **_fetch_student(plan, name, spec)}
        if spec.sequence is not None:
            # The control trains for a number of steps that depends on how much the teacher wrote.
            control_inputs["taught"] = plan.add(name, "distill", spec, {**control_inputs}, form)
        control_spec = spec.model_copy(update={"control": control_setting})
        control = plan.add(f"{name}.control", "distill.control", control_spec, control_inputs, form)
        plan.add_row(control, "control", control)
    for number, assistant in enumerate(requested.assistants, start=1):
        # Each is derived from and taught by the previous one; `generations` applies only to the student.
        own = spec.model_copy(update={"student": assistant, "generations": 1, "keep": "last"})
        assistant_inputs = {**inputs, **_fetch_student(plan, f"{name}.assistant{number}", own)}
        step = plan.add(f"{name}.assistant{number}", "distill", own, assistant_inputs, form)
        inputs = {"model": step, "teacher": step, "original": teacher}
        spec = spec.model_copy(update={"teachers": ()})
    inputs.update(_fetch_student(plan, name, spec))
    step = plan.add(name, "distill", spec, inputs, form)
    plan.add_row(name, "step", step)
    return step


def _additional_teachers(plan: PlanBuilder, name: str, spec: DistillSpec, teacher: str) -> dict[str, str]:
    """Return the steps of `teachers` by role: `teacher.1` for the first entry, and so on."""
    roles = {}
    for number, entry in enumerate(spec.teachers, start=1):
        step = teacher
        if entry.model is not None:
            step = plan.teacher_step(
                f"{name}.teacher{number}", entry.model, entry.revision, entry.labels, entry.finetune
            )
        roles[f"teacher.{number}"] = step
    return roles


def _fetch_student(plan: PlanBuilder, name: str, spec: DistillSpec) -> dict[str, str]:
    """Return the step that fetches a ready-made student; empty for one derived from the teacher."""
    student = spec.student
    if student.model is None:
        return {}
    return {"student": plan.fetch_step(f"{name}.student", student.model, student.revision)}


TRAINING_FACTS = ("shown", "teachers", "kept", "stages", "assistants", "generations", "data_free", "warnings")
"""Facts of a distillation shown in the report's table of training."""
WRITTEN = "written"
"""Fact with the statistics of the teacher's texts."""
GENERATED = "generated"
"""Fact with the statistics of generated texts that the teacher labelled."""
HELD_OUT = "held_out"
"""Fact with a student's perplexity on the answers of held-out pairs."""
OWN_TEXTS = "own_texts"
"""Fact of a stage with the statistics of the student's own texts."""


def _parse_leniently(body: Mapping[str, Any]) -> PassSpec:
    """Build a spec with only `keep`, which determines whether the result is a single model."""
    return DistillSpec.model_construct(**{key: body[key] for key in ("keep",) if key in body})


DISTILL = PassKind(
    spec=DistillSpec,
    parse_leniently=_parse_leniently,
    steps={
        "distill": StepKind(
            "compress.passes.distill.step:run",
            TORCH,
            trains=True,
            reads_unlabeled=True,
            open_form_fields=(),
            architecture_from="student",
        ),
        "distill.control": StepKind(
            "compress.passes.distill.step:run_control", TORCH, trains=True, reads_unlabeled=True
        ),
    },
    inputs=("model", "teacher"),
    plan=_plan,
    faults="compress.passes.distill.checks:faults",
    warnings="compress.passes.distill.checks:warnings",
    told=(*TRAINING_FACTS, WRITTEN, HELD_OUT, GENERATED),
    sections=(
        "compress.passes.distill.sections.written:written",
        "compress.passes.distill.sections.own_texts:own_texts",
        "compress.passes.distill.sections.generated:generated",
    ),
    taught="compress.passes.distill.sections.teaching:taught",
)
