"""Spec of 16-bit quantization: weights, and optionally the arithmetic."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, model_validator

from compress.core.forms import Form, Framework, NumberFormat
from compress.passes.quantize.spec import QuantizeSpec


class HalfSpec(QuantizeSpec):
    """16 bits: half the size, and no faster on a CPU."""

    step_kind: ClassVar[str] = "quantize.half"
    model_config = ConfigDict(json_schema_extra={"required": ["bits"]})

    bits: Literal[16] = 16
    """Half the size, and no faster on a CPU."""
    library: Literal["onnxruntime"] = "onnxruntime"
    """`onnxruntime` writes an ONNX file."""
    numbers: Literal["fp16", "bf16"] = "fp16"
    """16-bit floating-point format."""
    arithmetic: Literal["fp32", "half"] = "fp32"
    """`fp32`: store weights in 16 bits and compute in FP32; `half`: convert the operators to FP16 too, which is no
    faster on a CPU (`fp16` only)."""

    @model_validator(mode="after")
    def _check_bf16_arithmetic(self) -> Self:
        if self.numbers == "bf16" and self.arithmetic == "half":
            raise ValueError(
                "onnxruntime cannot multiply bf16 on a CPU: use `arithmetic: fp32`, or `numbers: fp16`"
            )
        return self

    def produces(self, form: Form) -> Form:
        """Return the form of the output model."""
        return form.with_fields(framework=Framework.ONNX, numbers=NumberFormat.HALF)
