"""Base specs of the quantization pass: keys that all variants share."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.core.forms import Form, Framework, NumberFormat
from compress.core.numerics import Precision
from compress.passes.contract import PassSpec
from compress.profile.specs.recovery import RecoverySpec

LayerKind = Literal["linear", "attention", "embedding", "convolution"]


class QuantizeSpec(PassSpec):
    """Quantize to 8-bit integer arithmetic, or store weights in 4-bit blocks or 16 bits."""

    kind: ClassVar[str] = "quantize"
    accepts: ClassVar[str] = "a float model, torch or ONNX"
    step_kind: ClassVar[str] = "quantize"
    """The kind of step that runs it."""

    bits: int
    """8: integer weights and arithmetic; 4: weight-only blocks (`MatMulNBits`); 16: half the size, and no faster on a
    CPU."""
    library: Literal["onnxruntime", "bitsandbytes"] = "onnxruntime"
    """`onnxruntime`: write an ONNX file; `bitsandbytes`: pack the linear layers (LLM.int8(), NF4, FP4) of a model that
    stays in torch, for `runtime: torch` only; `exclude` then names modules."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.numbers is NumberFormat.FLOAT and not form.bundled


class OnnxSpec(QuantizeSpec):
    """What integers of both widths share: an ONNX file whose layers are quantized unless they are excluded."""

    library: Literal["onnxruntime"] = "onnxruntime"
    """`onnxruntime` writes an ONNX file."""
    embeddings: bool | Literal[4, 8] = True
    """Quantize embedding tables too; 4 or 8: to this many bits, whatever `bits` is; `false`: leave them in floating
    point."""
    exclude: tuple[str, ...] = ()
    """Names of ONNX nodes to leave in floating point (shell patterns)."""
    exclude_kinds: tuple[LayerKind, ...] = ()
    """Kinds of layers to leave in floating point; `attention` means fused attention operators."""
    train: RecoverySpec | None = None
    """Train with the integers, from the teacher's outputs; unset: no training."""

    def training_precision(self) -> Precision:
        """Precision of the training with simulated rounding."""
        return "auto" if self.train is None else self.train.precision

    def needs(self) -> str:
        """Description of the accepted input, for messages."""
        return self.accepts if self.train is None else "a float torch model"

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return super().fits(form) and (self.train is None or form.framework is Framework.TORCH)

    @property
    def table_bits(self) -> int:
        """Bits of the embedding tables if they are quantized."""
        return self.bits if isinstance(self.embeddings, bool) else self.embeddings
