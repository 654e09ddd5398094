"""Registration of the quantization pass."""

from __future__ import annotations

from compress.core.forms import ONNX_FLOAT, Framework
from compress.passes.contract import ONNX, TORCH, PassKind, PassSpec, PlanBuilder, StepKind
from compress.passes.quantize.half.spec import HalfSpec
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.products import QuantizeBody, roughly
from compress.passes.quantize.spec import OnnxSpec, QuantizeSpec
from compress.passes.quantize.weight_only.spec import WeightOnlySpec

FP16_BASELINE = "baseline.fp16"


def _plan(plan: PlanBuilder, name: str, spec: PassSpec, current: str, teacher: str) -> str:
    """Plan the quantization step, after a training step if the spec requests one."""
    assert isinstance(spec, QuantizeSpec)
    form = plan.form(current)
    produced = spec.produces(form)
    before, trained = current, spec
    if isinstance(spec, OnnxSpec) and spec.train is not None:
        spec = spec.model_copy(update={"train": None})
        if isinstance(spec, Int8Spec):
            # The result is still a float model, which is lowered and quantized like any other.
            inputs = {"model": current, "teacher": teacher}
            current = plan.add(f"{name}.train", "quantize.train", trained, inputs, form)
    model = plan.lowered(current) if produced.framework is Framework.ONNX else current
    later = spec is not trained and isinstance(spec, WeightOnlySpec)
    step = plan.add(f"{name}.blocks" if later else name, spec.step_kind, spec, {"model": model}, produced)
    if later:
        inputs = {"model": step, "float": before, "lowered": model, "teacher": teacher}
        step = plan.add(name, "quantize.scales", trained, inputs, produced)
    plan.row(name, "step", step)
    return step


def _in_fp16(plan: PlanBuilder, teacher: str) -> None:
    """Plan the FP16 version of the teacher as a GPU baseline: passes must beat what takes no effort."""
    if ("cuda", "onnxruntime") not in plan.devices:
        return
    spec = HalfSpec(arithmetic="half")
    inputs = {"model": plan.lowered(teacher)}
    step = plan.add(FP16_BASELINE, spec.step_kind, spec, inputs, spec.produces(ONNX_FLOAT))
    plan.row(FP16_BASELINE, "variant", step, device="cuda")


QUANTIZE = PassKind(
    spec=QuantizeSpec,
    body=QuantizeBody,
    roughly=roughly,
    steps={
        "quantize": StepKind("compress.passes.quantize.step:run", ONNX, open_form=("structure", "numbers")),
        "quantize.train": StepKind(
            "compress.passes.quantize.qat.step:run",
            (*TORCH, *ONNX, "onnxscript"),
            trains=True,
            keeps="model",
            prepares=True,
        ),
        "quantize.scales": StepKind(
            "compress.passes.quantize.weight_only.train:run",
            (*TORCH, *ONNX),
            trains=True,
            open_form=("structure", "numbers"),
        ),
        "quantize.bitsandbytes": StepKind(
            "compress.passes.quantize.bitsandbytes.step:run", (*TORCH, "bitsandbytes"), reads_data=False
        ),
        "quantize.half": StepKind("compress.passes.quantize.half.step:run", ONNX),
    },
    plan=_plan,
    beside_baseline=_in_fp16,
    faults="compress.passes.quantize.checks:faults",
    told=("mixed", "blocks", "eight_bits"),
    sections=("compress.passes.quantize.sections:sensitivity", "compress.passes.quantize.sections:blocks"),
    target_warnings="compress.passes.quantize.int8.gain.speed:integer_warnings",
)
