"""Sizes of artifacts on disk."""

from __future__ import annotations

from compress.core.artifacts import TOKENIZER, Artifact
from compress.core.records import Size
from compress.core.units import megabytes


def size_of(artifact: Artifact) -> Size:
    """Return the sizes of the model files, of the tokenizer (0 without one) and of the whole artifact."""
    tokenizer_bytes = artifact.files[TOKENIZER][1] if TOKENIZER in artifact.files else 0
    return Size(
        model_mb=artifact.size_mb, tokenizer_mb=megabytes(tokenizer_bytes), total_mb=artifact.total_mb
    )
