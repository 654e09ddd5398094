"""Which layers of an 8-bit model stay in floating point: what that is decided by."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.spec import Fraction, PassSpecBase, one_of


class MixedSpec(PassSpecBase):
    """Mixed precision: layers that lose much in integers are given back to floating point, their weights stored in 16
    bits. How much a layer loses is measured on validation examples, each layer alone in integers. Name one of
    `max_drop`, `size_mb`, `latency_ms`."""

    model_config = one_of("max_drop", "size_mb", "latency_ms")

    max_drop: Fraction | None = None
    """Most loss of validation score against the float model (0.005: half a point), on at most 1,000 examples: layers
    are given back, the worst first, until it holds."""
    size_mb: Annotated[float, Field(gt=0)] | None = None
    """Most MB (10^6 bytes) of the file: what loses most is given back as far as that allows."""
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Most median latency of one example on the first target that runs onnxruntime, ms: what loses most is given back
    as far as that allows."""
    examples: Annotated[int, Field(ge=1)] = 256
    """Validation examples that a layer's loss is measured on, at most; fewer where half of `minutes` would not do."""
    minutes: Annotated[float, Field(gt=0)] = 10
    """Time that may be spent; the best model found by then is kept, with the reason. Layers that it does not suffice to
    measure count as those that lose least, and one model with the worst layers given back is tried in any case."""

    @model_validator(mode="after")
    def _one(self) -> MixedSpec:
        if sum(value is not None for value in (self.max_drop, self.size_mb, self.latency_ms)) != 1:
            raise ValueError(
                "name one of max_drop, size_mb and latency_ms: it decides which layers stay floating"
            )
        return self
