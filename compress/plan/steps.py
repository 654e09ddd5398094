"""The plan: which steps a profile asks for, what each takes, and what of it is measured. A graph, torch-free.

    source ── teacher ─┬─ baseline's lowering
                       ├─ distill ──┬─ its lowering
                       │            └─ prune ── its lowering ── quantize ── export
                       └─ distill.control ── its lowering

A distillation takes its inputs by role: `model` is what the student is made from, `teacher` who teaches it,
`original` the teacher of the profile, `teacher.N` further teachers, `student` a student that stands ready. Assistants
are distillations themselves.

A torch model is lowered to ONNX by a step of its own wherever an onnxruntime target measures it or a later pass
takes ONNX; the plan holds that step once, whoever needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compress.core.forms import ONNX_FLOAT, TORCH_FLOAT, Form, Framework
from compress.core.records import Role
from compress.core.spec import PassSpec, Spec
from compress.profile.distill_spec import DistillSpec
from compress.profile.pass_specs import QuantizeSpec
from compress.profile.schema import Profile, TargetSpec, TeacherSpec
from compress.profile.training_spec import FinetuneSpec

SOURCE = "source"
TEACHER = "teacher"
BASELINE = "baseline"
HALF = "baseline.fp16"


@dataclass(frozen=True)
class StepKind:
    """What the engine must know of a kind of step before it imports anything of it.

    `module` and `function` name what runs it; `libraries` are the distributions whose versions its result depends
    on; `reads_data` and `trains` say whether data, seed and numerics are part of its key. `trial` names what tells on
    the untrained architecture that the step cannot be done; None: nothing does.
    """

    module: str
    function: str
    libraries: tuple[str, ...]
    reads_data: bool = True
    trains: bool = False
    trial: str | None = None


_TORCH = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_ONNX = ("onnx", "onnxruntime", "numpy")

STEP_KINDS: Mapping[str, StepKind] = {
    "source": StepKind("compress.passes.source.step", "run", _TORCH),
    "finetune": StepKind("compress.passes.finetune.step", "run", _TORCH, trains=True),
    "distill": StepKind("compress.passes.distill.step", "run", _TORCH, trains=True),
    "distill.control": StepKind("compress.passes.distill.step", "run_control", _TORCH, trains=True),
    "prune": StepKind(
        "compress.passes.prune.step",
        "run",
        (*_TORCH, *_ONNX, "onnxscript", "torch-pruning"),
        trains=True,
        trial="try_untrained",
    ),
    "low_rank": StepKind("compress.passes.low_rank.step", "run", _TORCH, trains=True),
    "lower": StepKind("compress.lowering.step", "run", (*_TORCH, *_ONNX, "onnxscript")),
    "quantize": StepKind("compress.passes.quantize.step", "run", _ONNX),
    "quantize.train": StepKind(
        "compress.passes.quantize.qat.step", "run", (*_TORCH, *_ONNX, "onnxscript"), trains=True
    ),
    "quantize.bitsandbytes": StepKind(
        "compress.passes.quantize.bitsandbytes.step", "run", (*_TORCH, "bitsandbytes"), reads_data=False
    ),
    "quantize.half": StepKind("compress.passes.quantize.half.step", "run", _ONNX),
    "export": StepKind("compress.passes.export.step", "run", _ONNX),
}


@dataclass(frozen=True)
class PlannedStep:
    """One step: what it runs, its inputs by role (names of earlier steps), and the form it leaves."""

    name: str
    kind: str
    spec: Spec
    inputs: Mapping[str, str]
    form: Form


@dataclass(frozen=True)
class Row:
    """One row of the report: the step whose result it is, and the step that is measured for each runtime.

    `device`: the only one that it is measured on; None: on every target.
    """

    name: str
    role: Role
    step: str
    measured: Mapping[str, str]
    device: str | None = None

    def is_measured_on(self, target: TargetSpec) -> bool:
        """Whether a target measures it."""
        return target.runtime in self.measured and self.device in (None, target.device)


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each finds its inputs made, and the rows of the report.

    `rows[0]` is the baseline; `rows[-1]` is what is deployed.
    """

    profile: Profile
    steps: tuple[PlannedStep, ...]
    rows: tuple[Row, ...]

    def step(self, name: str) -> PlannedStep:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)


def untrained(plan: Plan, name: str) -> str | None:
    """The source step whose model has the architecture that a step starts from; None where a pass between makes
    another, which is known only once it has."""
    while True:
        step = plan.step(name)
        if step.kind == "source":
            return name
        role = {"finetune": "model", "distill": "student", "quantize.train": "model"}.get(step.kind)
        if role is None or role not in step.inputs:
            return None
        name = step.inputs[role]


def model_sources(plan: Plan) -> tuple[TeacherSpec, ...]:
    """What the source steps of a plan fetch: the teacher, and whatever else a distillation names."""
    return tuple(step.spec for step in plan.steps if isinstance(step.spec, TeacherSpec))


def build_plan(profile: Profile) -> Plan:
    """The plan of a valid profile."""
    return _Builder(profile).build()


class _Builder:
    """Collects steps and rows while it walks the passes."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.steps: dict[str, PlannedStep] = {}
        self.rows: list[Row] = []
        self.runtimes = sorted({target.runtime for target in profile.targets})

    def build(self) -> Plan:
        teacher = self.teacher()
        self.row(BASELINE, "baseline", teacher)
        if any((target.device, target.runtime) == ("cuda", "onnxruntime") for target in self.profile.targets):
            self.in_fp16(teacher)
        current = teacher
        for index, spec in enumerate(self.profile.specs):
            current = self.add_pass(self.pass_name(index), spec, current, teacher)
        return Plan(self.profile, tuple(self.steps.values()), tuple(self.rows))

    def in_fp16(self, teacher: str) -> None:
        """What a GPU makes of the teacher with no work at all: passes must be worth more than that."""
        spec = QuantizeSpec(bits=16, arithmetic="half")
        step = self.add(
            HALF, spec.step_kind, spec, {"model": self.lowered(teacher)}, spec.produces(ONNX_FLOAT)
        )
        self.rows.append(Row(HALF, "variant", step, {"onnxruntime": step}, device="cuda"))

    def teacher(self) -> str:
        return self.trained(self.profile.teacher, SOURCE, TEACHER)

    def trained(self, spec: TeacherSpec, source: str, name: str) -> str:
        """The step that fetches a teacher, or the one that trains it after that."""
        # The source depends on whether it will be fine-tuned (else its head must fit), not on how.
        shown = spec.model_copy(update={"finetune": spec.finetune and FinetuneSpec()})
        self.add(source, "source", shown, {}, TORCH_FLOAT)
        if spec.finetune is None:
            return source
        return self.add(name, "finetune", spec.finetune, {"model": source}, TORCH_FLOAT)

    def add_pass(self, name: str, spec: PassSpec, current: str, teacher: str) -> str:
        form = self.steps[current].form
        produced = spec.produces(form)
        if isinstance(spec, QuantizeSpec) and spec.train is not None:
            # A float model still, which is then lowered and quantized like any other.
            inputs = {"model": current, "teacher": teacher}
            current = self.add(f"{name}.train", "quantize.train", spec, inputs, form)
            spec = spec.model_copy(update={"train": None})
        if isinstance(spec, DistillSpec):
            return self.add_distillation(name, spec, current, teacher, produced)
        if produced.framework is Framework.ONNX:
            inputs = {"model": self.lowered(current)}
        elif isinstance(spec, QuantizeSpec):
            inputs = {"model": current}
        else:
            inputs = {"model": current, "teacher": teacher}
        kind = spec.step_kind if isinstance(spec, QuantizeSpec) else spec.kind
        step = self.add(name, kind, spec, inputs, produced)
        self.row(name, "step", step)
        return step

    def add_distillation(self, name: str, spec: DistillSpec, current: str, teacher: str, form: Form) -> str:
        """The step of the student, those of its control, its further teachers and its assistants."""
        asked, spec = spec, spec.model_copy(update={"control": False, "assistants": ()})
        inputs = {"model": current, "teacher": teacher, "original": teacher}
        inputs.update(self.further_teachers(name, spec, teacher))
        if asked.control:
            started = {**inputs, **self.ready_student(name, spec)}
            control = self.add(f"{name}.control", "distill.control", spec, started, form)
            self.row(control, "control", control)
        for number, assistant in enumerate(asked.assistants, start=1):
            # Each is made from the one before it and taught by it; generations are for the student alone.
            own = spec.model_copy(update={"student": assistant, "generations": 1, "keep": "last"})
            taught = {**inputs, **self.ready_student(f"{name}.assistant{number}", own)}
            step = self.add(f"{name}.assistant{number}", "distill", own, taught, form)
            inputs = {"model": step, "teacher": step, "original": teacher}
            spec = spec.model_copy(update={"teachers": ()})
        inputs.update(self.ready_student(name, spec))
        step = self.add(name, "distill", spec, inputs, form)
        self.row(name, "step", step)
        return step

    def further_teachers(self, name: str, spec: DistillSpec, teacher: str) -> dict[str, str]:
        """The steps of `teachers` by role: `teacher.1` for the first entry, and so on."""
        roles = {}
        for number, entry in enumerate(spec.teachers, start=1):
            step = teacher
            if entry.model is not None:
                own = TeacherSpec(
                    model=entry.model, revision=entry.revision, labels=entry.labels, finetune=entry.finetune
                )
                step = self.trained(own, f"{name}.teacher{number}.source", f"{name}.teacher{number}")
            roles[f"teacher.{number}"] = step
        return roles

    def ready_student(self, name: str, spec: DistillSpec) -> dict[str, str]:
        """The step that fetches a student that stands ready; none for one made from the teacher."""
        if spec.student.model is None:
            return {}
        # A head of other labels gives way to a fresh one, as before a fine-tuning.
        own = TeacherSpec(model=spec.student.model, revision=spec.student.revision, finetune=FinetuneSpec())
        return {"student": self.add(f"{name}.student", "source", own, {}, TORCH_FLOAT)}

    def pass_name(self, index: int) -> str:
        """`prune`, or `prune.2` where it is the second of its kind."""
        kinds = [spec.kind for spec in self.profile.specs]
        earlier = kinds[:index].count(kinds[index])
        return f"{kinds[index]}.{earlier + 1}" if earlier else kinds[index]

    def lowered(self, name: str) -> str:
        """The ONNX form of a step's model: itself, or the step that lowers it."""
        step = self.steps[name]
        if step.form.framework is Framework.ONNX:
            return name
        form = ONNX_FLOAT.with_(structure=step.form.structure)
        return self.add(f"{name}.onnx", "lower", Spec(), {"model": name}, form)

    def add(self, name: str, kind: str, spec: Spec, inputs: Mapping[str, str], form: Form) -> str:
        self.steps.setdefault(name, PlannedStep(name, kind, spec, inputs, form))
        return name

    def row(self, name: str, role: Role, step: str) -> None:
        measured: dict[str, str] = {
            runtime: self.lowered(step) if runtime == "onnxruntime" else step for runtime in self.runtimes
        }
        self.rows.append(Row(name, role, step, measured))
