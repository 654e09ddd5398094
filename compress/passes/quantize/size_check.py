"""Check shared by all quantization steps: the output file must be smaller."""

from __future__ import annotations

from pathlib import Path

from compress.core.artifacts import ONNX_MODEL
from compress.core.errors import PassError
from compress.core.units import megabytes


def model_bytes(folder: Path) -> int:
    """Return the size in bytes of the ONNX model in a folder, external data included."""
    return sum(file.stat().st_size for file in folder.glob(f"{ONNX_MODEL}*"))


def check_smaller(before: int, after: int, what: str, hint: str) -> dict[str, float]:
    """Check that the file has shrunk and return both sizes as facts of the step.

    Args:
        before: bytes of the float file.
        after: bytes of the quantized file.
        what: name of the quantized file in the message.
        hint: advice if it did not shrink.

    Raises:
        PassError: it did not shrink.
    """
    if after >= before:
        raise PassError(
            f"the {what} file has {megabytes(after):.3f} MB, the float one {megabytes(before):.3f} MB",
            where="quantize",
            hint=hint,
        )
    return {"size_mb_before": megabytes(before), "size_mb_after": megabytes(after)}
