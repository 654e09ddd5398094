"""Registration of the export pass."""

from __future__ import annotations

from compress.passes.contract import ONNX, PassKind, PassSpec, PlanBuilder, StepKind
from compress.passes.export.spec import ExportSpec


def _steps(plan: PlanBuilder, name: str, spec: PassSpec, current: str, teacher: str) -> str:
    """Plan the export step, with the last torch model as an additional input if a format is made from it."""
    assert isinstance(spec, ExportSpec)
    inputs = {"model": plan.onnx_step(current)}
    if spec.has_language_format:
        inputs["weights"] = plan.torch_step(current)
    step = plan.add(name, spec.kind, spec, inputs, spec.produces(plan.form(current)))
    plan.add_row(name, "step", step)
    return step


EXPORT = PassKind(
    spec=ExportSpec,
    steps={
        "export": StepKind(
            "compress.passes.export.step:run", (*ONNX, "gguf"), open_form_fields=("structure", "numbers")
        )
    },
    plan=_steps,
    faults="compress.passes.export.checks:faults",
    told=("mobile", "operators"),
    sections=("compress.passes.export.sections:phones",),
    lines="compress.passes.export.sections:phone_lines",
)
