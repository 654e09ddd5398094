"""Registration of the quantization pass."""

from __future__ import annotations

from compress.core.forms import ONNX_FLOAT, Framework
from compress.passes.contract import ONNX, TORCH, PassKind, PassSpec, PlanBuilder, StepKind
from compress.passes.quantize.half.spec import HalfSpec
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.products import QuantizeBody, parse_leniently
from compress.passes.quantize.spec import OnnxSpec, QuantizeSpec
from compress.passes.quantize.weight_only.spec import WeightOnlySpec

FP16_BASELINE = "baseline.fp16"


def _plan(plan: PlanBuilder, name: str, spec: PassSpec, current: str, teacher: str) -> str:
    """Plan the quantization step, after a training step if the spec requests one."""
    assert isinstance(spec, QuantizeSpec)
    form = plan.form(current)
    produced = spec.produces(form)
    float_step, training_spec = current, spec
    if isinstance(spec, OnnxSpec) and spec.train is not None:
        spec = spec.model_copy(update={"train": None})
        if isinstance(spec, Int8Spec):
            # The result is still a float model, which is lowered and quantized like any other.
            inputs = {"model": current, "teacher": teacher}
            current = plan.add(f"{name}.train", "quantize.train", training_spec, inputs, form)
    model = plan.onnx_step(current) if produced.framework is Framework.ONNX else current
    trains_scales = spec is not training_spec and isinstance(spec, WeightOnlySpec)
    step = plan.add(
        f"{name}.blocks" if trains_scales else name, spec.step_kind, spec, {"model": model}, produced
    )
    if trains_scales:
        inputs = {"model": step, "float": float_step, "lowered": model, "teacher": teacher}
        step = plan.add(name, "quantize.scales", training_spec, inputs, produced)
    plan.add_row(name, "step", step)
    return step


def _add_fp16_baseline(plan: PlanBuilder, teacher: str) -> None:
    """Plan the FP16 version of the teacher as a GPU baseline: passes must beat what takes no effort."""
    if ("cuda", "onnxruntime") not in plan.devices:
        return
    spec = HalfSpec(arithmetic="half")
    inputs = {"model": plan.onnx_step(teacher)}
    step = plan.add(FP16_BASELINE, spec.step_kind, spec, inputs, spec.produces(ONNX_FLOAT))
    plan.add_row(FP16_BASELINE, "variant", step, device="cuda")


QUANTIZE = PassKind(
    spec=QuantizeSpec,
    body=QuantizeBody,
    parse_leniently=parse_leniently,
    steps={
        "quantize": StepKind(
            "compress.passes.quantize.step:run", ONNX, open_form_fields=("structure", "numbers")
        ),
        "quantize.train": StepKind(
            "compress.passes.quantize.qat.step:run",
            (*TORCH, *ONNX, "onnxscript"),
            trains=True,
            architecture_from="model",
            is_preparation=True,
        ),
        "quantize.scales": StepKind(
            "compress.passes.quantize.weight_only.train:run",
            (*TORCH, *ONNX),
            trains=True,
            open_form_fields=("structure", "numbers"),
        ),
        "quantize.bitsandbytes": StepKind(
            "compress.passes.quantize.bitsandbytes.step:run", (*TORCH, "bitsandbytes"), reads_data=False
        ),
        "quantize.half": StepKind("compress.passes.quantize.half.step:run", ONNX),
    },
    plan=_plan,
    add_baselines=_add_fp16_baseline,
    faults="compress.passes.quantize.checks:faults",
    told=("mixed", "blocks", "eight_bits"),
    sections=("compress.passes.quantize.sections:sensitivity", "compress.passes.quantize.sections:blocks"),
    target_warnings="compress.passes.quantize.int8.gain.speed:integer_warnings",
)
