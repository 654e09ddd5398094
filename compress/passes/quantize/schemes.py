"""Schemes of a quantization spec, and the selection rule of `scheme: auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.core.errors import ModelError
from compress.core.task_kind import MetricKind
from compress.measuring.variants import Variant
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.layers import Convolution
from compress.passes.quantize.spec import OnnxSpec

TOLERANCE = 0.005
"""Maximum loss of the task's metric: half a point."""
LATENCY_TOLERANCE = 1.05
"""Latencies less than 5 % apart count as equal, so that measurement noise does not decide."""


def schemes_for(spec: OnnxSpec, convolutions: Sequence[Convolution]) -> list[str]:
    """Return the schemes to try for a spec and a model with these convolutions; several are measured.

    Raises:
        ModelError: the requested scheme does not support convolutions.
    """
    if not convolutions:
        if not isinstance(spec, Int8Spec):
            return ["weight_only"]
        measured = ["static"] if spec.format == "qdq" else ["dynamic", "static"]
        return measured if spec.scheme == "auto" else [spec.scheme]
    names = ", ".join(layer.node.name or "" for layer in convolutions[:3])
    description = f"{len(convolutions)} convolutions ({names}{', ...' if len(convolutions) > 3 else ''})"
    if not isinstance(spec, Int8Spec):
        raise ModelError(
            f"this model has {description}, but 4-bit block weights are supported for matrix products only",
            where="quantize.bits",
            hint="Set `bits: 8`, or list the convolutions in `exclude` to keep them in floating point.",
        )
    if spec.scheme == "dynamic":
        raise ModelError(
            f"this model has {description}, which are slower with dynamic ranges than in floating point",
            where="quantize.scheme",
            hint="Set `scheme: static` (or `auto`, which chooses it), or list the convolutions in `exclude`.",
        )
    return ["static"]


def choose_scheme(candidates: Mapping[str, Variant], metric: MetricKind) -> str:
    """Return the fastest variant whose validation score is close to the best.

    Close is within half a point, or half a percent if scores are `relative`.

    Among equally fast ones the better score wins, then the first in order.
    """
    best = max(candidate.score for candidate in candidates.values())
    accurate = {
        name: one
        for name, one in candidates.items()
        if metric.degradation(best, one.score) <= TOLERANCE + 1e-12
    }
    fastest = min(one.p50_ms for one in accurate.values())
    fast = {name: one for name, one in accurate.items() if one.p50_ms <= fastest * LATENCY_TOLERANCE}
    return max(fast, key=lambda name: fast[name].score)
