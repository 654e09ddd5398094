"""Spec of weight-only block quantization: 4 bits, or 8 with `scheme: weight_only`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from compress.core.forms import Form, Framework, NumberFormat
from compress.core.spec import PassSpecBase
from compress.passes.quantize.int8.spec import CalibrationSpec
from compress.passes.quantize.spec import OnnxSpec
from compress.profile.specs.recovery import ScaleTrainingSpec

_EXAMPLES = 512
DECODER_TOKENS = 16_384
"""Number of tokens of these examples that a decoder reads: its windows are long, and all of them would take hours."""


class ExamplesSpec(PassSpecBase):
    """Training examples for `method: gptq` and `awq` and for `cache`."""

    examples: Annotated[int, Field(ge=1)] | None = None
    """Number of training examples to read; unset: 512, of which a language model reads as many windows as hold 16,384
    tokens."""

    @model_validator(mode="before")
    @classmethod
    def _check_no_ranges(cls, value: Any) -> Any:
        named = [key for key in CalibrationSpec.model_fields if isinstance(value, dict) and key in value]
        ranges = [key for key in named if key not in cls.model_fields]
        if ranges:
            raise ValueError(
                f"{' and '.join(ranges)} {'serves' if len(ranges) == 1 else 'serve'} 8 bits only: 4-bit weights have "
                "no activation ranges; `method` and `symmetric` of `quantize` set how they are made"
            )
        return value


class BitsSpec(PassSpecBase):
    """8 bits for the weights that lose most in 4 bits, relative to the extra bytes. The loss of each weight alone is
    measured by how far the outputs move (KL divergence from the float model's, on training examples)."""

    size_mb: Annotated[float, Field(gt=0)]
    """Maximum file size in MB (10^6 bytes)."""
    tokens: Annotated[int, Field(ge=1)] = 1024
    """Number of tokens of training examples to measure each weight on."""
    minutes: Annotated[float, Field(gt=0)] = 20
    """Time limit of the measurement in minutes; weights not measured in time count as those that lose least."""


class WeightOnlySpec(OnnxSpec):
    """4 bits: weight-only blocks (`MatMulNBits`), whose inputs stay in floating point."""

    model_config = ConfigDict(
        json_schema_extra={
            "required": ["bits"],
            "anyOf": [{"properties": {"bits": {"const": 4}}}, {"required": ["scheme"]}],
        }
    )

    bits: Literal[4, 8] = 4
    """Weight-only blocks (`MatMulNBits`); 8 needs `scheme: weight_only`."""
    scheme: Literal["weight_only"] = "weight_only"
    """Only weights are integers; the other schemes, for `bits: 8`, use integer arithmetic."""
    eight_bits: tuple[str, ...] = ()
    """Names of ONNX nodes whose weights get 8 bits (shell patterns)."""
    method: Literal["rtn", "hqq", "gptq", "awq"] = "gptq"
    """How weights are rounded: to nearest (`rtn`), on a fitted grid (`hqq`, Badri and Shaji 2023), with error feedback
    (`gptq`, Frantar et al. 2022) or with scaled inputs (`awq`, Lin et al. 2023); the last two read
    `calibration.examples` training examples."""
    activation_order: bool = True
    """`gptq` only: round the weights of the largest inputs first."""
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """Number of weights that share a scale. 256 is used in rows that it divides, and 128 in the others, because the
    padding of a row's last block is stored and multiplied too."""
    symmetric: bool = True
    """Quantize symmetrically around zero, without zero points."""
    rotate: bool = False
    """Language models only: first rotate the residual stream by a random orthogonal matrix, which leaves the outputs
    unchanged and spreads outliers over all channels (QuaRot, Ashkboos et al. 2024). Worth a try, but not always a gain.
    Excludes `train` and `mixed`."""
    cache: Literal[8] | None = None
    """Language models only: bits of the KV cache, with one scale per channel found on `calibration.examples`; unset:
    FP32."""
    mixed: BitsSpec | None = None
    """Choose by measurement which weights get 8 bits, in addition to those of `eight_bits`, within a file size."""
    train: ScaleTrainingSpec | None = None
    """Train the block scales from the teacher's outputs, while the integers stay those of the method. Needs a model
    that is still in torch; not with `method: awq`. Unset: no training."""
    calibration: ExamplesSpec = ExamplesSpec()
    """Training examples that the method reads."""

    @model_validator(mode="before")
    @classmethod
    def _check_scheme(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("scheme", "weight_only") != "weight_only":
            raise ValueError(
                "scheme serves 8 bits only: with 4-bit weights activations stay in floating point and have no ranges; "
                "leave it out, or use `bits: 8`"
            )
        return value

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if self.method != "gptq" and "activation_order" in self.model_fields_set:
            raise ValueError("activation_order serves `method: gptq` only")
        if not self.reads_examples and "examples" in self.calibration.model_fields_set:
            raise ValueError(
                "calibration.examples serves `method: gptq` and `awq`, and `cache`: the others use only the weights"
            )
        if self.rotate and (self.train is not None or self.mixed is not None):
            other = "train" if self.train is not None else "mixed"
            raise ValueError(
                f"`{other}` needs the original weights, but `rotate` changes them: leave one of them out"
            )
        if self.mixed is not None and self.bits == 8:
            raise ValueError("`mixed` chooses between 4 and 8 bits, but this is `bits: 8`; use `bits: 4`")
        if self.train is not None and self.method == "awq":
            raise ValueError(
                "`method: awq` moves scales between layers, but in the model that `train` runs they are not moved; "
                "use `gptq`, `hqq` or `rtn`"
            )
        return self

    @property
    def reads_examples(self) -> bool:
        """Whether training examples are read."""
        return self.method in ("gptq", "awq") or self.cache is not None

    @property
    def calibration_examples(self) -> int:
        """Number of training examples to read."""
        return self.calibration.examples or _EXAMPLES

    def block_size_for(self, width: int) -> int:
        """Return the number of weights that share a scale in a row of `width`."""
        return 128 if self.block_size == 256 and width % 256 else self.block_size

    def produces(self, form: Form) -> Form:
        """Return the form of the output model."""
        return form.with_fields(framework=Framework.ONNX, numbers=NumberFormat.WEIGHT_ONLY)
