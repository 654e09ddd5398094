"""The plan: which steps a profile asks for, what each takes, and what of it is measured. A graph, torch-free.

    source ── teacher ─┬─ baseline's lowering
                       ├─ distill ──┬─ its lowering
                       │            └─ prune ── its lowering ── quantize ── export
                       └─ distill.control ── its lowering

A torch model is lowered to ONNX by a step of its own wherever an onnxruntime target measures it or a later pass
takes ONNX; the plan holds that step once, whoever needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compress.forms import ONNX_FLOAT, TORCH_FLOAT, Form, Framework
from compress.profile.base import Spec
from compress.profile.pass_specs import DistillSpec, PassSpec
from compress.profile.schema import Profile
from compress.profile.training_spec import FinetuneSpec
from compress.records import Role

SOURCE = "source"
TEACHER = "teacher"
BASELINE = "baseline"


@dataclass(frozen=True)
class StepKind:
    """What the engine must know of a kind of step before it imports anything of it.

    `module` and `function` name what runs it; `libraries` are the distributions whose versions its result depends
    on; `reads_data` and `trains` say whether data, seed and numerics are part of its key.
    """

    module: str
    function: str
    libraries: tuple[str, ...]
    reads_data: bool = True
    trains: bool = False


_TORCH = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_ONNX = ("onnx", "onnxruntime", "numpy")

STEP_KINDS: Mapping[str, StepKind] = {
    "source": StepKind("compress.passes.source.step", "run", _TORCH),
    "finetune": StepKind("compress.passes.finetune.step", "run", _TORCH, trains=True),
    "distill": StepKind("compress.passes.distill.step", "run", _TORCH, trains=True),
    "distill.control": StepKind("compress.passes.distill.step", "run_control", _TORCH, trains=True),
    "prune": StepKind("compress.passes.prune.step", "run", (*_TORCH, "torch-pruning"), trains=True),
    "lower": StepKind("compress.lowering.step", "run", (*_TORCH, *_ONNX, "onnxscript")),
    "quantize": StepKind("compress.passes.quantize.step", "run", _ONNX),
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
    """One row of the report: the step whose result it is, and the step that is measured for each runtime."""

    name: str
    role: Role
    step: str
    measured: Mapping[str, str]


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
        current = teacher
        for index, spec in enumerate(self.profile.specs):
            current = self.add_pass(self.pass_name(index), spec, current, teacher)
        return Plan(self.profile, tuple(self.steps.values()), tuple(self.rows))

    def teacher(self) -> str:
        spec = self.profile.teacher
        # The source depends on whether it will be fine-tuned (else its head must fit), not on how.
        shown = spec.model_copy(update={"finetune": spec.finetune and FinetuneSpec()})
        self.add(SOURCE, "source", shown, {}, TORCH_FLOAT)
        if spec.finetune is None:
            return SOURCE
        return self.add(TEACHER, "finetune", spec.finetune, {"model": SOURCE}, TORCH_FLOAT)

    def add_pass(self, name: str, spec: PassSpec, current: str, teacher: str) -> str:
        form = self.steps[current].form
        produced = spec.produces(form)
        if produced.framework is Framework.ONNX:
            step = self.add(name, spec.kind, spec, {"model": self.lowered(current)}, produced)
            self.row(name, "step", step)
            return step
        inputs = {"model": current, "teacher": teacher}
        if isinstance(spec, DistillSpec) and spec.control:
            spec = spec.model_copy(update={"control": False})
            control = self.add(f"{name}.control", "distill.control", spec, inputs, produced)
            self.row(control, "control", control)
        step = self.add(name, spec.kind, spec, inputs, produced)
        self.row(name, "step", step)
        return step

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
