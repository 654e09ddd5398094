"""Packaging as the rest of the house knows it."""

from __future__ import annotations

from compress.passes.contract import ONNX, PassKind, StepKind
from compress.passes.export.spec import ExportSpec

EXPORT = PassKind(
    spec=ExportSpec,
    steps={"export": StepKind("compress.passes.export.step:run", ONNX, open_form=("structure", "numbers"))},
    told=("mobile", "operators"),
    sections=("compress.passes.export.sections:phones",),
    lines="compress.passes.export.sections:phone_lines",
)
