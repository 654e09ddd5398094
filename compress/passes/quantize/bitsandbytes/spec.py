"""Spec of 4- and 8-bit quantization by bitsandbytes; the model stays in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, model_validator

from compress.core.forms import Form, Framework, NumberFormat
from compress.passes.quantize.spec import QuantizeSpec


class BitsandbytesSpec(QuantizeSpec):
    """Linear layers packed by bitsandbytes (LLM.int8(), NF4, FP4), in a model that stays in torch: for `runtime: torch`
    only."""

    step_kind: ClassVar[str] = "quantize.bitsandbytes"
    model_config = ConfigDict(json_schema_extra={"required": ["library"]})

    bits: Literal[4, 8] = 8
    """8: LLM.int8(); 4: NF4 or FP4."""
    library: Literal["bitsandbytes"] = "bitsandbytes"
    """`bitsandbytes` packs a torch model, which stays in torch."""
    numbers: Literal["nf4", "fp4"] = "nf4"
    """4 bits only: quantiles of a normal distribution (`nf4`) or floating-point numbers (`fp4`)."""
    double_quantization: bool = True
    """4 bits only: quantize the scales to 8 bits too."""
    exclude: tuple[str, ...] = ()
    """Names of modules to leave in floating point (shell patterns)."""

    @model_validator(mode="before")
    @classmethod
    def _check_bits(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("bits") == 16:
            raise ValueError("bitsandbytes stores 4 or 8 bits; leave `library` out for `bits: 16`")
        return value

    @model_validator(mode="after")
    def _check_four_bit_keys(self) -> Self:
        if self.bits == 8 and "double_quantization" in self.model_fields_set:
            raise ValueError(
                "double_quantization is for 4 bits only: LLM.int8() has one scale per output and nothing to "
                "quantize twice; leave it out, or use `bits: 4`"
            )
        if self.bits == 8 and "numbers" in self.model_fields_set:
            raise ValueError(
                "numbers is for 4 bits only: LLM.int8() stores integers; leave it out, or use `bits: 4`"
            )
        return self

    @property
    def stored_as(self) -> Literal["int8", "nf4", "fp4"]:
        """Storage format of a packed weight in bitsandbytes."""
        return "int8" if self.bits == 8 else self.numbers

    def needs(self) -> str:
        """Description of the accepted input, for messages."""
        return "a float torch model"

    def onnx_fault(self) -> str:
        """Reason why bitsandbytes weights cannot be exported to ONNX, and the alternative with the same bits."""
        operator = "MatMulNBits" if self.bits == 4 else "integer products"
        return (
            "ONNX has no operator for bitsandbytes weights, which only its own kernels can read; "
            f"for {self.bits} bits in ONNX use `quantize: {{bits: {self.bits}}}` ({operator})"
        )

    def ensemble_fault(self) -> tuple[str, str]:
        """Profile key and message for an averaged ensemble, which cannot be packed; `{}` is the pass that leaves it."""
        return (
            "library",
            "bitsandbytes packs one file of weights, but {} leaves an ensemble of several models; leave `library` out, "
            "or distil with `keep: last` or `keep: best`",
        )

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return super().fits(form) and form.framework is Framework.TORCH

    def produces(self, form: Form) -> Form:
        """Return the form of the output model."""
        return form.with_fields(numbers=NumberFormat.BITSANDBYTES)
