"""What quantizing is asked for: bits, ranges, methods, and what stays in floating point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, Numbers
from compress.core.numerics import Precision, Processor, bytes_overflow, reduced_range
from compress.core.spec import PassSpecBase, Positive
from compress.passes.contract import PassSpec
from compress.passes.quantize.mixed.spec import MixedSpec
from compress.passes.quantize.unused_keys import idle_in_eight_bits, idle_in_four_bits
from compress.profile.recovery_spec import RoundedTrainingSpec


class CalibrationSpec(PassSpecBase):
    """Activation ranges for `scheme: static`, from training data only."""

    examples: Positive | None = None
    """Training examples read; unset: 128 for ranges, 512 for `method: gptq` or `awq`, which learn from each."""
    method: Literal["minmax", "average", "entropy", "percentile", "mse"] = "minmax"
    """How a range is made of the values seen: all of them, the mean of each example's smallest and largest, or the
    part that loses least (KL divergence, a percentile, mean squared error). One pass, in memory that does not grow
    with the examples."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    """Percent of the values that `percentile` keeps."""
    symmetric: bool = False
    """Ranges that hold both signs are made symmetric around zero."""

    @model_validator(mode="after")
    def _of_its_method(self) -> CalibrationSpec:
        if "percentile" in self.model_fields_set and self.method != "percentile":
            raise ValueError(f"percentile serves `method: percentile` only; this is `method: {self.method}`")
        return self


class SmoothSpec(PassSpecBase):
    """Move outliers of activations into the weights that multiply them (SmoothQuant)."""

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = "search"
    """Share of the difficulty that moves into the weights; `search`: each layer's with the least error of 8 bits."""


_OF_BITSANDBYTES = frozenset({"bits", "library", "numbers", "double_quantization", "exclude"})
_OF_HALF = frozenset({"bits", "library", "numbers", "arithmetic", "double_quantization"})
_RANGED_OVER, _LEARNED_FROM = 128, 512


class QuantizeSpec(PassSpec):
    """Store and multiply in 8-bit integers, or store weights in 4-bit blocks or 16 bits."""

    kind: ClassVar[str] = "quantize"
    accepts: ClassVar[str] = "a float model, torch or ONNX"

    bits: Literal[4, 8, 16] = 8
    """8: integer weights and arithmetic; 4: weight-only blocks (`MatMulNBits`); 16: half the bytes, and no faster on a
    CPU."""
    library: Literal["onnxruntime", "bitsandbytes"] = "onnxruntime"
    """`onnxruntime` writes an ONNX file; `bitsandbytes` packs the linear layers (LLM.int8(), NF4, FP4) of a model that
    stays in torch: for `runtime: torch` alone, and `exclude` names modules."""
    numbers: Literal["fp16", "bf16", "nf4", "fp4"] | None = None
    """What the bits stand for. 16: `fp16` (unset) or `bf16`; 4 of bitsandbytes: quantiles of a normal distribution
    (`nf4`, unset) or floating-point numbers (`fp4`)."""
    arithmetic: Literal["fp32", "half"] = "fp32"
    """For 16 bits: `fp32` stores them and multiplies as before; `half` converts the operators to FP16 too, which is no
    faster on a CPU."""
    double_quantization: bool = True
    """`library: bitsandbytes`: 4 bits: store the scales in 8 bits too."""
    scheme: Literal["auto", "dynamic", "static"] = "auto"
    """Activation ranges at run time, or calibrated; `auto` measures both on the validation split. For 8 bits. Where
    more than 1 point is lost there, `auto` tries `equalize` and `bias_correction` too, unless the profile sets them,
    and takes the best; any other scheme says beyond 5 points which of them would help."""
    per_channel: bool = True
    """A scale for each output channel of a weight."""
    embeddings: bool | Literal[4, 8] = True
    """Quantize the embedding tables too; 4 or 8: in so many bits, whatever the rest has."""
    exclude: tuple[str, ...] = ()
    """Names of ONNX nodes left in floating point (shell patterns)."""
    exclude_kinds: tuple[Literal["linear", "attention", "embedding", "convolution"], ...] = ()
    """Kinds of layers left in floating point."""
    format: Literal["operator", "qdq"] = "operator"
    """Integer operators of onnxruntime, or `QuantizeLinear` and `DequantizeLinear` around floating-point ones, for
    `scheme: static`. What has no such form stays an operator of onnxruntime: products behind an activation function,
    attention that is one operator, tables of 4 bits. So a transformer's file is for onnxruntime in either format."""
    reduce_range: bool | Literal["auto"] = "auto"
    """8-bit weights of 7 bits, which do not overflow on x86 without VNNI; `auto`: where the processor of a target needs
    it."""
    smooth: SmoothSpec | bool = False
    """Move outliers of activations into weights first; `true` takes the defaults of this section."""
    equalize: bool = False
    """Share out the ranges of neighbouring convolutions first (cross-layer equalisation)."""
    bias_correction: bool = False
    """Let biases take back what rounding shifts in the mean, measured on the calibration examples."""
    train: RoundedTrainingSpec | None = None
    """Train first, with the rounding of 8 bits simulated, from the teacher's logits (quantization-aware distillation):
    weights move to where rounding costs little. For a model that is still in torch; unset: no training."""
    method: Literal["rtn", "hqq", "gptq", "awq"] = "gptq"
    """How weights become 4 bits: to the nearest (`rtn`), on a fitted grid (`hqq`), with feedback of errors (`gptq`) or
    with scaled inputs (`awq`); the last two read `calibration.examples` training examples."""
    activation_order: bool = True
    """`gptq`: round the weights of the largest inputs first."""
    block_size: Literal[16, 32, 64, 128] = 32
    """Weights that share a scale, for 4 bits."""
    symmetric: bool = True
    """4-bit weights around zero, without a zero point; 8-bit weights always are."""
    calibration: CalibrationSpec = CalibrationSpec()
    """Where `static` takes its ranges from; its examples serve `smooth` and `bias_correction` too."""
    mixed: MixedSpec | None = None
    """Give layers that lose much back to floating point, for 8 bits."""

    @model_validator(mode="after")
    def _belong_together(self) -> QuantizeSpec:
        if self.train is not None:
            self._trains()
        if self.bits == 4:
            unused = [key for key in ("smooth", "equalize", "bias_correction") if getattr(self, key)]
            unused += ["mixed"] if self.mixed is not None else []
            unused += ["format"] if self.format == "qdq" else []
            if unused:
                raise ValueError(f"{' and '.join(unused)} serve 8 bits only; this is `bits: 4`")
        if self.bits == 16 and self.library == "onnxruntime":
            unused = sorted(self.model_fields_set - _OF_HALF)
            if unused:
                raise ValueError(f"{' and '.join(unused)} serve 4 and 8 bits only; this is `bits: 16`")
            if self.half == "bf16" and self.arithmetic == "half":
                raise ValueError(
                    "onnxruntime multiplies no bf16 on a CPU: use `arithmetic: fp32`, or `numbers: fp16`"
                )
        elif "arithmetic" in self.model_fields_set:
            raise ValueError("arithmetic serves `bits: 16` only")
        known = ("fp16", "bf16") if self.bits == 16 else ("nf4", "fp4")
        if self.numbers is not None and self.numbers not in known:
            raise ValueError(
                f"{self.bits} bits are not {self.numbers}; use {' or '.join(known)}, or leave it out"
            )
        if self.library == "bitsandbytes":
            if self.bits == 16:
                raise ValueError("bitsandbytes stores 4 or 8 bits; leave `library` out for `bits: 16`")
            unused = sorted(self.model_fields_set - _OF_BITSANDBYTES)
            if unused:
                raise ValueError(f"{' and '.join(unused)} serve ONNX only; this is `library: bitsandbytes`")
            if self.bits == 8 and "double_quantization" in self.model_fields_set:
                raise ValueError(
                    "double_quantization serves 4 bits only: LLM.int8() has one scale an output, and nothing to "
                    "quantize twice; leave it out, or use `bits: 4`"
                )
        else:
            foreign = ("double_quantization",) if self.bits == 16 else ("numbers", "double_quantization")
            unused = [key for key in foreign if key in self.model_fields_set]
            if unused:
                raise ValueError(f"{' and '.join(unused)} serve `library: bitsandbytes` only")
        if self.format == "qdq" and self.scheme == "dynamic":
            raise ValueError("`format: qdq` writes calibrated ranges down, and `scheme: dynamic` has none")
        idle = self._idle()
        if idle is not None:
            raise ValueError(idle)
        return self

    def _idle(self) -> str | None:
        """What the profile names and nothing would read, as a fault."""
        if self.library != "onnxruntime" or self.bits == 16:
            return None
        given: dict[str, Any] = {key: getattr(self, key) for key in self.model_fields_set}
        given |= {
            f"calibration.{key}": getattr(self.calibration, key) for key in self.calibration.model_fields_set
        }
        if self.bits == 4:
            return idle_in_four_bits(given, self.method)
        reads = self.bias_correction or self.smoothing is not None
        return idle_in_eight_bits(given, dynamic=self.scheme == "dynamic", reads_examples=reads)

    def _trains(self) -> None:
        if self.library != "onnxruntime":
            raise ValueError(f"train serves ONNX only; this is `library: {self.library}`")
        if self.bits != 8:
            raise ValueError(f"train serves 8 bits only; this is `bits: {self.bits}`")
        moved = [key for key in ("smooth", "equalize", "bias_correction") if getattr(self, key)]
        if moved:
            raise ValueError(
                f"{' and '.join(moved)} would move the weights that `train` has fitted to their rounding"
            )
        if self.scheme != "dynamic" and self.calibration.method != "minmax":
            raise ValueError(
                f"`calibration.method: {self.calibration.method}` would cut other ranges than those that `train` "
                "simulates; use `minmax`, or leave `train` out"
            )

    @property
    def smoothing(self) -> SmoothSpec | None:
        """How to smooth; None: not at all."""
        return (SmoothSpec() if self.smooth else None) if isinstance(self.smooth, bool) else self.smooth

    @property
    def calibration_examples(self) -> int:
        """Training examples read."""
        learns = self.bits == 4 and self.method in ("gptq", "awq")
        return self.calibration.examples or (_LEARNED_FROM if learns else _RANGED_OVER)

    @property
    def timed(self) -> bool:
        """Whether what is made depends on measured times."""
        return self.scheme == "auto" or (self.mixed is not None and self.mixed.latency_ms is not None)

    def asked_precision(self) -> Precision:
        """That of the training for integers."""
        return self.train.precision if self.train is not None else "auto"

    def of_this_machine(self) -> dict[str, object]:
        """Whether 8-bit weights use 7 bits here."""
        return {"reduced_range": reduced_range(self.reduce_range)} if self.bits == 8 else {}

    @property
    def asks_processors(self) -> bool:
        """Whether they decide if 8-bit weights use 7 bits."""
        return self.library == "onnxruntime" and self.bits == 8 and self.reduce_range == "auto"

    def decided_for(self, processors: Sequence[Processor]) -> QuantizeSpec:
        """With `reduce_range: auto` decided."""
        if not self.asks_processors:
            return self
        needed = any(bytes_overflow(*processor) for processor in processors)
        return self.model_copy(update={"reduce_range": needed})

    @property
    def table_bits(self) -> int:
        """Bits of the embedding tables, where they are quantized."""
        return self.bits if isinstance(self.embeddings, bool) else self.embeddings

    @property
    def starts_in_torch(self) -> bool:
        """Whether it needs a torch model: to train it, or to pack its layers."""
        return self.library == "bitsandbytes" or self.train is not None

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        loads = not self.starts_in_torch or form.framework is Framework.TORCH
        return loads and form.numbers is Numbers.FLOAT and not form.bundled

    @property
    def stored_as(self) -> Literal["int8", "nf4", "fp4"]:
        """How bitsandbytes stores a weight."""
        if self.bits == 8:
            return "int8"
        return "fp4" if self.numbers == "fp4" else "nf4"

    @property
    def half(self) -> Literal["fp16", "bf16"]:
        """What 16 bits stand for."""
        return "bf16" if self.numbers == "bf16" else "fp16"

    @property
    def step_kind(self) -> str:
        """The kind of step that runs it."""
        if self.library == "bitsandbytes":
            return "quantize.bitsandbytes"
        return "quantize.half" if self.bits == 16 else "quantize"

    def produces(self, form: Form) -> Form:
        """The form of the result; with `auto` the number format is known after measuring."""
        if self.library == "bitsandbytes":
            return form.with_(numbers=Numbers.BITSANDBYTES)
        if self.bits == 16:
            return form.with_(framework=Framework.ONNX, numbers=Numbers.HALF)
        eight = Numbers.QDQ if self.format == "qdq" else Numbers.OPERATOR
        numbers = Numbers.WEIGHT_ONLY if self.bits == 4 else eight
        return form.with_(framework=Framework.ONNX, numbers=numbers)
