"""Quantize to 16 bits: half the file size, and the same outputs up to 16-bit precision."""

from __future__ import annotations

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL, copy_interface
from compress.core.errors import PassError
from compress.core.forms import NumberFormat
from compress.lowering.files import check_onnx, save_onnx
from compress.lowering.parity import compare_outputs, onnx_predictor, real_batches
from compress.passes.quantize.half.conversion import compute_in_fp16, store_in_half
from compress.passes.quantize.half.spec import HalfSpec
from compress.passes.quantize.size_check import check_smaller, model_bytes
from compress.runtimes.runner import open_session
from compress.step import StepContext, StepResult

LIMITS = {"fp16": 0.01, "bf16": 0.05}
"""Allowed difference over the largest absolute output: 11 and 8 significant bits, through all layers."""


def run(ctx: StepContext) -> StepResult:
    """Store the weights in 16 bits or convert the operators too, and check parity with the float model on real inputs.

    Raises:
        PassError: the file did not shrink, onnxruntime cannot run it, or its outputs differ too much.
    """
    spec, source = ctx.spec_as(HalfSpec), ctx.inputs["model"]
    numbers, path = spec.numbers, ctx.out / ONNX_MODEL
    if spec.arithmetic == "half":
        compute_in_fp16(source.model_file, path)
        check_onnx(path)
    else:
        model = ir.load(source.model_file)
        store_in_half(model, numbers)
        save_onnx(model, ctx.out)
    copy_interface(source.path, ctx.out)
    sizes = check_smaller(
        model_bytes(source.path),
        model_bytes(ctx.out),
        numbers,
        "Nothing in this model is worth storing in 16 bits.",
    )
    try:
        open_session(str(path))
    except Exception as error:
        # onnxruntime raises classes of its own whose only common base is Exception.
        raise PassError(
            f"onnxruntime cannot run this model in {numbers} here: {error}",
            where="quantize.arithmetic",
            hint="Use `arithmetic: fp32`, which stores the same 16 bits and multiplies in FP32.",
        ) from error
    shapes = real_batches(ctx.task, ctx.data.validation, source)
    facts = {
        **source.facts,
        "bits": spec.bits,
        "scheme": f"{numbers}, {'FP32' if spec.arithmetic == 'fp32' else 'FP16'} arithmetic",
        "parity": compare_outputs(path, shapes, onnx_predictor(source.model_file), LIMITS[numbers]),
        **sizes,
    }
    return StepResult(source.form.with_fields(numbers=NumberFormat.HALF), facts)
