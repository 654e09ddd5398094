"""Spec of mixed precision: the criterion for returning 8-bit layers to floating point."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.spec import Fraction, PassSpecBase, requires_one_of


class MixedSpec(PassSpecBase):
    """Mixed precision: layers that lose much in integers are returned to floating point, with weights stored in 16
    bits. The loss of each layer is measured on validation examples, with this layer alone in integers. Set exactly one
    of `max_drop`, `size_mb`, `latency_ms`."""

    model_config = requires_one_of("max_drop", "size_mb", "latency_ms")

    max_drop: Fraction | None = None
    """Maximum drop of the validation score from the float model's (0.005: half a point), on at most 1,000 examples:
    layers are returned, the worst first, until it holds."""
    size_mb: Annotated[float, Field(gt=0)] | None = None
    """Maximum file size in MB (10^6 bytes): the layers that lose most are returned as far as it allows."""
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Maximum median latency of one example in ms, on the first target that runs onnxruntime: the layers that lose most
    are returned as far as it allows. Not for convolutions."""
    examples: Annotated[int, Field(ge=1)] = 256
    """Maximum number of validation examples to measure a layer's loss on; fewer if half of `minutes` would not
    suffice."""
    minutes: Annotated[float, Field(gt=0)] = 10
    """Time limit in minutes; the best model found by then is kept, and the reason reported. Layers not measured in time
    count as those that lose least; one model with the worst layers returned is tried in any case."""

    @model_validator(mode="after")
    def _check_exactly_one(self) -> MixedSpec:
        if sum(value is not None for value in (self.max_drop, self.size_mb, self.latency_ms)) != 1:
            raise ValueError(
                "give exactly one of max_drop, size_mb and latency_ms: it decides which layers stay in floating point"
            )
        return self
