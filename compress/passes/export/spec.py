"""Spec of the export pass."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, Structure
from compress.passes.contract import PassSpec

LANGUAGE_FORMATS = ("gguf", "genai")
"""Formats of language models, made from the last torch model."""


class ExportSpec(PassSpec):
    """Package the model for deployment: files, manifest, golden examples, model card and `predict.py`."""

    kind: ClassVar[str] = "export"
    accepts: ClassVar[str] = "any model that is not a bundle yet"

    formats: Annotated[tuple[Literal["onnx", "ort", "gguf", "genai"], ...], Field(min_length=1)] = ("onnx",)
    """`onnx` is always in the bundle; `ort` adds the format for mobile; for language models, `gguf` adds llama.cpp's
    format and `genai` the files for onnxruntime-genai."""
    gguf: Literal["f16", "q8_0", "q4_0", "q4_1"] = "f16"
    """How `gguf` stores matrices: in 16 bits, or in blocks of 32 numbers that share a scale, rounded as llama.cpp does
    from the floating-point weights, even after a `quantize`."""
    golden: Annotated[int, Field(ge=1, le=1000)] = 16
    """Number of golden examples: validation texts or images with the outputs that the bundle must reproduce."""

    @model_validator(mode="after")
    def _check_gguf(self) -> Self:
        if "gguf" in self.model_fields_set and "gguf" not in self.formats:
            raise ValueError("gguf sets how the format `gguf` stores weights: add `gguf` to `formats`")
        return self

    def needs(self) -> str:
        """Description of the accepted input, for messages."""
        unfactored = "a model without factored maps, which llama.cpp does not support"
        return unfactored if "gguf" in self.formats else self.accepts

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        factored = form.structure is Structure.FACTORED
        return not form.bundled and not (factored and "gguf" in self.formats)

    def produces(self, form: Form) -> Form:
        """Return the form of the output model."""
        return form.with_fields(framework=Framework.ONNX, bundled=True)

    @property
    def has_language_format(self) -> bool:
        """Whether a format of language models is requested."""
        return not set(LANGUAGE_FORMATS).isdisjoint(self.formats)
