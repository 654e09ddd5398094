"""Spec of 8-bit quantization: integer weights and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, NumberFormat
from compress.core.numerics import Processor, int8_saturates, reduced_range
from compress.core.spec import PassSpecBase
from compress.passes.quantize.mixed.spec import MixedSpec
from compress.passes.quantize.spec import OnnxSpec
from compress.profile.specs.recovery import RoundedTrainingSpec

_EXAMPLES = 128


class CalibrationSpec(PassSpecBase):
    """Activation ranges for `scheme: static`, from training data only."""

    examples: Annotated[int, Field(ge=1)] | None = None
    """Number of training examples to read; unset: 128."""
    method: Literal["minmax", "average", "entropy", "percentile", "mse"] = "minmax"
    """How a range is derived from the observed values: from all of them (`minmax`), from a moving average of each
    example's minimum and maximum (`average`), or by clipping for the least KL divergence (`entropy`), to a percentile,
    or for the least mean squared error (`mse`). A single pass, in memory that does not grow with the examples."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    """`method: percentile` only: percentage of the values to keep; the rest is cut from both ends alike."""
    symmetric: bool = False
    """Make ranges with both signs symmetric around zero."""

    @model_validator(mode="after")
    def _check_percentile(self) -> Self:
        if "percentile" in self.model_fields_set and self.method != "percentile":
            raise ValueError(f"percentile serves `method: percentile` only; this is `method: {self.method}`")
        return self


class SmoothSpec(PassSpecBase):
    """Move activation outliers into the weights that multiply them (SmoothQuant, Xiao et al. 2022)."""

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = "search"
    """How much of the difficulty moves into the weights, from 0 (none) to 1 (all); `search`: for each layer the value
    with the least 8-bit error."""


class Int8Spec(OnnxSpec):
    """8 bits: integer weights and arithmetic. `bits: 4`, `bits: 16` and `library: bitsandbytes` have keys of their
    own."""

    bits: Literal[8] = 8
    """Integer weights and arithmetic."""
    scheme: Literal["auto", "dynamic", "static"] = "auto"
    """Activation ranges found at run time (`dynamic`) or calibrated (`static`); `auto` measures both on the validation
    split and takes the faster one within half a point of the better score. Convolutions are always `static`. If more
    than 1 point is lost, `auto` also tries `equalize` and `bias_correction`, unless the profile sets them, and takes
    the best; the other schemes only report which of them would help, beyond 5 points."""
    per_channel: bool = True
    """One scale per output channel of a weight; `false`: one per weight."""
    format: Literal["operator", "qdq"] = "operator"
    """`operator`: integer operators of onnxruntime; `qdq`: `QuantizeLinear` and `DequantizeLinear` around
    floating-point operators, for `scheme: static` only. What has no such form remains an operator of onnxruntime:
    products after an activation function, fused attention, 4-bit tables. A transformer's file therefore needs
    onnxruntime in either format."""
    reduce_range: bool | Literal["auto"] = "auto"
    """Use 7 bits of 8-bit weights, which avoids overflow on x86 without VNNI; `auto`: where the processor of a target
    needs it."""
    smooth: SmoothSpec | bool = False
    """Move activation outliers into the weights first (SmoothQuant); `true`: with the defaults of this section."""
    equalize: bool = False
    """Images only: balance the weight ranges of neighbouring convolutions first (cross-layer equalisation, Nagel et al.
    2019)."""
    bias_correction: bool = False
    """Let biases compensate for the mean shift of the outputs by rounding, measured on the calibration examples (Nagel
    et al. 2019)."""
    train: RoundedTrainingSpec | None = None
    """Train first, with 8-bit rounding simulated, from the teacher's outputs (quantization-aware distillation), so that
    weights move to where rounding costs little. Needs a model that is still in torch; not for language models. Unset:
    no training."""
    calibration: CalibrationSpec = CalibrationSpec()
    """Where `static` takes its ranges from; `smooth` and `bias_correction` use its examples too."""
    mixed: MixedSpec | None = None
    """Return layers that lose much to floating point; unset: none."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.format == "qdq" and self.scheme == "dynamic":
            raise ValueError("`format: qdq` stores calibrated ranges, but `scheme: dynamic` has none")
        self._check_calibration()
        if self.train is not None:
            self._check_training()
        return self

    def _check_calibration(self) -> None:
        if self.scheme != "dynamic":
            return
        of_ranges = ("method", "percentile", "symmetric")
        unused_keys = [f"calibration.{key}" for key in of_ranges if key in self.calibration.model_fields_set]
        reason = "with `scheme: dynamic` ranges are determined at run time"
        if unused_keys:
            verb = "serves" if len(unused_keys) == 1 else "serve"
            raise ValueError(f"{' and '.join(unused_keys)} {verb} `scheme: static` or `auto`: {reason}")
        read = self.bias_correction or self.smoothing is not None
        if "examples" in self.calibration.model_fields_set and not read:
            raise ValueError(
                f"calibration.examples serves `scheme: static` or `auto`, `smooth` and `bias_correction`: {reason}"
            )

    def _check_training(self) -> None:
        conflicting = [key for key in ("smooth", "equalize", "bias_correction") if getattr(self, key)]
        if conflicting:
            raise ValueError(
                f"{' and '.join(conflicting)} would change the weights that `train` has fitted to their rounding"
            )
        if self.scheme != "dynamic" and self.calibration.method != "minmax":
            raise ValueError(
                f"`calibration.method: {self.calibration.method}` would clip ranges differently from what `train` "
                "simulates; use `minmax`, or leave `train` out"
            )

    @property
    def smoothing(self) -> SmoothSpec | None:
        """Smoothing options; None: no smoothing."""
        return (SmoothSpec() if self.smooth else None) if isinstance(self.smooth, bool) else self.smooth

    @property
    def calibration_examples(self) -> int:
        """Number of training examples to read."""
        return self.calibration.examples or _EXAMPLES

    @property
    def depends_on_timing(self) -> bool:
        """Whether the result depends on measured times."""
        return self.scheme == "auto" or (self.mixed is not None and self.mixed.latency_ms is not None)

    def machine_facts(self) -> dict[str, object]:
        """Machine-dependent part of the cache key: whether 8-bit weights use 7 bits here."""
        return {"reduced_range": reduced_range(self.reduce_range)}

    @property
    def depends_on_processors(self) -> bool:
        """Whether the targets' processors decide if 8-bit weights use 7 bits."""
        return self.reduce_range == "auto"

    def resolved_for(self, processors: Sequence[Processor]) -> Self:
        """Return the spec with `reduce_range: auto` resolved."""
        if not self.depends_on_processors:
            return self
        needed = any(int8_saturates(*processor) for processor in processors)
        return self.model_copy(update={"reduce_range": needed})

    def produces(self, form: Form) -> Form:
        """Return the form of the output model."""
        numbers = NumberFormat.QDQ if self.format == "qdq" else NumberFormat.OPERATOR
        return form.with_fields(framework=Framework.ONNX, numbers=numbers)
