"""What an export writes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.forms import Form, Framework
from compress.passes.contract import PassSpec


class ExportSpec(PassSpec):
    """Package the model for deployment: files, manifest, golden examples, card and `predict.py`."""

    kind: ClassVar[str] = "export"
    accepts: ClassVar[str] = "any model that is not a bundle yet"

    formats: Annotated[tuple[Literal["onnx", "ort"], ...], Field(min_length=1)] = ("onnx",)
    """`onnx` always stands in the bundle; `ort` adds the mobile format."""
    golden: Annotated[int, Field(ge=1, le=1000)] = 16
    """Golden examples: validation texts or images with the outputs that the bundle must reproduce."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return not form.bundled

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        return form.with_(framework=Framework.ONNX, bundled=True)
