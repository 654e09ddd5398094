"""The promise that every way of quantizing makes: the file is smaller."""

from __future__ import annotations

from pathlib import Path

from compress.core.artifacts import ONNX_MODEL
from compress.core.errors import PassError
from compress.core.units import megabytes


def model_bytes(folder: Path) -> int:
    """Bytes of the ONNX model in a folder and of its external data."""
    return sum(file.stat().st_size for file in folder.glob(f"{ONNX_MODEL}*"))


def sizes_in_facts(before: int, after: int, what: str, hint: str) -> dict[str, float]:
    """The two sizes as facts of a step, once the file has shrunk.

    Args:
        before: bytes of the float file; `after`: of the quantized one, which is called `what`.
        hint: what to do where it did not shrink.

    Raises:
        PassError: it did not.
    """
    if after >= before:
        raise PassError(
            f"the {what} file has {megabytes(after):.3f} MB, the float one {megabytes(before):.3f} MB",
            where="quantize",
            hint=hint,
        )
    return {"size_mb_before": megabytes(before), "size_mb_after": megabytes(after)}
