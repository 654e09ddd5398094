"""The plan of a profile: a graph of steps with their inputs, and which results are measured. Does not import torch.

    source ── teacher ─┬─ baseline's lowering
                       ├─ distill ──┬─ its lowering
                       │            └─ prune ── its lowering ── quantize ── export
                       └─ distill.control ── its lowering

A torch model is lowered to ONNX by a separate step if an onnxruntime target measures it or a later pass takes ONNX; the
plan contains that step once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compress.core.forms import ONNX_FLOAT, TEXTS, TORCH_FLOAT, Form, Framework
from compress.core.records import Role
from compress.core.spec import Spec
from compress.passes.contract import UNLABELED, PassSpec
from compress.passes.table import FINETUNE, GENERATE, LOWER, PASSES, SOURCE, step_kind
from compress.profile.schema import Profile, TargetSpec, TeacherSpec
from compress.profile.specs.generate import GenerateSpec, TuningSpec
from compress.profile.specs.training import FinetuneSpec
from compress.tasks.table import generative_task

TEACHER = "teacher"
WRITER = "generate.writer"
BASELINE = "baseline"


@dataclass(frozen=True)
class PlannedStep:
    """One step: its kind, its inputs by role (names of earlier steps), and the form of its result.

    `is_generator`: the step makes the model that generates additional labeled texts, so its task is the generating one.
    """

    name: str
    kind: str
    spec: Spec
    inputs: Mapping[str, str]
    form: Form
    is_generator: bool = False

    @property
    def generates_texts(self) -> bool:
        """Whether the step generates texts and must be told which ones duplicate held-out data."""
        by_spec = isinstance(self.spec, PassSpec) and self.spec.generates_texts
        return by_spec or step_kind(self.kind).generates_texts

    def task(self, profile: Profile) -> str:
        """Return the task of the step's model."""
        return generative_task() if self.is_generator else profile.task


@dataclass(frozen=True)
class Row:
    """One row of the report: the step whose result it shows, and the step that is measured for each runtime.

    `device`: the only device that it is measured on; None for every target.
    """

    name: str
    role: Role
    step: str
    measured: Mapping[str, str]
    device: str | None = None

    def is_measured_on(self, target: TargetSpec) -> bool:
        """Whether the row is measured on a target."""
        return target.runtime in self.measured and self.device in (None, target.device)


@dataclass(frozen=True)
class Plan:
    """Steps in topological order and the rows of the report.

    `rows[0]` is the baseline; `rows[-1]` is the deployed model.
    """

    profile: Profile
    steps: tuple[PlannedStep, ...]
    rows: tuple[Row, ...]

    def step(self, name: str) -> PlannedStep:
        """Return the step with a name."""
        return next(step for step in self.steps if step.name == name)


def architecture_source(plan: Plan, name: str) -> str | None:
    """Return the source step whose model has the architecture of a step's result; None if a pass in between changes the
    architecture, which is then known only after it has run."""
    while True:
        step = plan.step(name)
        if step.kind == SOURCE:
            return name
        role = step_kind(step.kind).architecture_from
        if role is None or role not in step.inputs:
            return None
        name = step.inputs[role]


def model_sources(plan: Plan) -> tuple[tuple[TeacherSpec, str], ...]:
    """Return the spec and the task of each model that the plan's source steps fetch: the teacher, further models that
    passes name, and the model that generates texts."""
    return tuple(
        (step.spec, step.task(plan.profile)) for step in plan.steps if isinstance(step.spec, TeacherSpec)
    )


def build_plan(profile: Profile) -> Plan:
    """Build the plan of a valid profile."""
    return _Builder(profile).build()


class _Builder:
    """Collects steps and rows while iterating over the passes."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.steps: dict[str, PlannedStep] = {}
        self.rows: list[Row] = []
        self.devices = {(target.device, target.runtime) for target in profile.targets}

    def build(self) -> Plan:
        teacher = self.add_model(self.profile.teacher, SOURCE, TEACHER)
        if (generate := self.profile.data.generate_spec) is not None:
            self.add_generation(generate, teacher)
        self.add_row(BASELINE, "baseline", teacher)
        for kind in PASSES.values():
            if kind.add_baselines is not None:
                kind.add_baselines(self, teacher)
        current = teacher
        for index, spec in enumerate(self.profile.specs):
            current = self.add_pass(self.pass_name(index), spec, current, teacher)
        return Plan(self.profile, tuple(self.steps.values()), tuple(self.rows))

    def add_model(self, spec: TeacherSpec, source: str, name: str) -> str:
        """Add the source step of a teacher and, if requested, its fine-tuning; return the last of them."""
        # The source step depends on whether the model will be fine-tuned (else its head must fit), not on how.
        source_spec = spec.model_copy(update={"finetune": spec.finetune and FinetuneSpec()})
        self.add(source, SOURCE, source_spec, {}, TORCH_FLOAT)
        if spec.finetune is None:
            return source
        return self.add(name, FINETUNE, spec.finetune, {"model": source}, TORCH_FLOAT)

    def add_generation(self, spec: GenerateSpec, teacher: str) -> None:
        """Add the steps that fetch and fine-tune a generating model, and the step that generates texts with it."""
        writer_spec = TeacherSpec(model=spec.model, revision=spec.revision, finetune=spec.finetune)
        writer = self.add_model(writer_spec, f"{WRITER}.source", WRITER)
        for name in (f"{WRITER}.source", WRITER):
            self.steps[name] = replace(self.steps[name], is_generator=True)
        # The model and its training are covered by the key of the writer's step.
        generate_spec = spec.model_copy(update={"model": "", "revision": None, "finetune": TuningSpec()})
        self.add(GENERATE, GENERATE, generate_spec, {"writer": writer, "teacher": teacher}, TEXTS)

    def add_pass(self, name: str, spec: PassSpec, current: str, teacher: str) -> str:
        kind = PASSES[spec.kind]
        if kind.plan is not None:
            return kind.plan(self, name, spec, current, teacher)
        produced = spec.produces(self.form(current))
        model = self.onnx_step(current) if produced.framework is Framework.ONNX else current
        available = {"model": model, "teacher": teacher}
        step = self.add(name, spec.kind, spec, {role: available[role] for role in kind.inputs}, produced)
        self.add_row(name, "step", step)
        return step

    def fetch_step(self, name: str, model: str, revision: str | None) -> str:
        # As before fine-tuning, so that a new head is created.
        spec = TeacherSpec(model=model, revision=revision, finetune=FinetuneSpec())
        return self.add(name, SOURCE, spec, {}, TORCH_FLOAT)

    def teacher_step(
        self,
        name: str,
        model: str,
        revision: str | None,
        labels: tuple[str, ...] | None,
        finetune: Spec | None,
    ) -> str:
        assert finetune is None or isinstance(finetune, FinetuneSpec)
        spec = TeacherSpec(model=model, revision=revision, labels=labels, finetune=finetune)
        return self.add_model(spec, f"{name}.source", name)

    def pass_name(self, index: int) -> str:
        """Return the unique name of a pass: `prune`, or `prune.2` for the second of its kind."""
        kinds = [spec.kind for spec in self.profile.specs]
        earlier = kinds[:index].count(kinds[index])
        return f"{kinds[index]}.{earlier + 1}" if earlier else kinds[index]

    def form(self, step: str) -> Form:
        return self.steps[step].form

    def onnx_step(self, step: str) -> str:
        """Return the step with the ONNX form of a step's model: itself, or a step that lowers it."""
        if self.form(step).framework is Framework.ONNX:
            return step
        form = ONNX_FLOAT.with_fields(structure=self.form(step).structure)
        return self.add(f"{step}.onnx", LOWER, Spec(), {"model": step}, form)

    def torch_step(self, step: str) -> str:
        while self.form(step).framework is not Framework.TORCH:
            step = self.steps[step].inputs["model"]
        return step

    def add(self, name: str, kind: str, spec: Spec, inputs: Mapping[str, str], form: Form) -> str:
        if step_kind(kind).reads_unlabeled and GENERATE in self.steps:
            inputs = {**inputs, UNLABELED: GENERATE}
        self.steps.setdefault(name, PlannedStep(name, kind, spec, inputs, form))
        return name

    def add_row(self, name: str, role: Role, step: str, device: str | None = None) -> None:
        measured: dict[str, str] = {
            runtime: self.onnx_step(step) if runtime == "onnxruntime" else step
            for runtime in sorted({runtime for _, runtime in self.devices})
            if runtime == "onnxruntime" or self.form(step).framework is Framework.TORCH
        }
        self.rows.append(Row(name, role, step, measured, device))
